"""Pure functions on the factors of a low-rank update.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685),
section 4.1: h = W0 x + (alpha / r) B A x. Files and this library call A `down` and B `up`.
"""

from __future__ import annotations

from torch import Tensor


def low_rank_product(down: Tensor, up: Tensor) -> Tensor:
    """B A as a weight-shaped tensor.

    Args:
        down: A, `[r, in]` for a linear layer or `[r, in, kh, kw]` for a convolution.
        up: B, `[out, r]`, or `[out, r, 1, 1]`.

    Returns:
        `[out, in]` or `[out, in, kh, kw]`, in the dtype of `down`.
    """
    flat = up.flatten(1) @ down.flatten(1)  # [out, r] @ [r, in*kh*kw]
    return flat.reshape(up.shape[0], *down.shape[1:])


def delta(down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """alpha / r * B A: what LoRA adds to the base weight, shaped like it, in fp32 or wider.

    fp16 and bf16 factors are widened first, so that rounding happens once, when the caller
    stores the result.
    """
    wide_down, wide_up = (t if t.dtype.itemsize >= 4 else t.float() for t in (down, up))
    return low_rank_product(wide_down, wide_up) * (alpha / down.shape[0])
