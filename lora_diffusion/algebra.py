"""Pure functions on the factors of a low-rank update.

Sources: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685),
section 4.1: h = W0 x + (alpha / r) B A x; Liu et al., "DoRA: Weight-Decomposed Low-Rank
Adaptation" (arXiv:2402.09353), eq. 5. Files and this library call A `down` and B `up`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

# Whose channels DoRA's magnitude scales: one number an input channel, or one an output channel.
MagnitudeAxis = Literal["in", "out"]


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
    return low_rank_product(_wide(down), _wide(up)) * (alpha / down.shape[0])


def channel_norms(weight: Tensor, axis: MagnitudeAxis) -> Tensor:
    """The 2-norm of each channel of a weight `[out, in, *kernel]`, in fp32 or wider.

    Returns:
        For `in` the norms over output and kernel, `[1, in, *1]`; for `out` those over input and
        kernel, `[out, 1, *1]`.
    """
    kept = 1 if axis == "in" else 0
    over = [dim for dim in range(weight.dim()) if dim != kept]
    norms: Tensor = torch.linalg.vector_norm(_wide(weight), dim=over, keepdim=True)
    return norms


def magnitude_shape(weight_shape: Sequence[int], axis: MagnitudeAxis) -> tuple[int, ...]:
    """The shape of m for a weight: `[1, in, *1]` for the axis `in`, `[out, 1, *1]` for `out`."""
    kept = 1 if axis == "in" else 0
    return tuple(size if dim == kept else 1 for dim, size in enumerate(weight_shape))


def magnitude_ratio(magnitude: Tensor, norms: Tensor) -> Tensor:
    """m / norm, shaped like both; a channel of zeros is scaled by 0 / tiny = 0, not by NaN."""
    return magnitude / norms.clamp_min(torch.finfo(norms.dtype).tiny)


def dora_delta(
    down: Tensor,
    up: Tensor,
    alpha: float,
    magnitude: Tensor,
    axis: MagnitudeAxis,
    base_weight: Tensor,
) -> Tensor:
    """What DoRA adds to the base weight W0: m * (W0 + D) / norm(W0 + D) - W0, D = alpha / r * B A.

    Args:
        magnitude: m, `[1, in, *1]` for the axis `in`, `[out, 1, *1]` for `out`.
        axis: whose channels the norm is of.
        base_weight: W0, `[out, in, *kernel]`.

    Returns:
        Shaped like W0, in fp32 or wider. Exactly 0 where D is 0 and m is the norm of W0.
    """
    low_rank = delta(down, up, alpha)
    own = _wide(base_weight)
    ratio = magnitude_ratio(_wide(magnitude), channel_norms(own + low_rank, axis))
    return (ratio - 1) * own + ratio * low_rank


def _wide(tensor: Tensor) -> Tensor:
    """fp16 and bf16 as fp32; wider numbers as they are."""
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()
