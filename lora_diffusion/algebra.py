"""Pure functions on the factors of an update.

Sources: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685),
section 4.1: h = W0 x + (alpha / r) B A x; Liu et al., "DoRA: Weight-Decomposed Low-Rank
Adaptation" (arXiv:2402.09353), eq. 5. Files and this library call A `down` and B `up`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

# Whose channels DoRA's magnitude scales: one number an input channel, or one an output channel.
MagnitudeAxis = Literal["in", "out"]
_CPU_BLOCK = 1 << 18  # numbers; 1 MiB in fp32


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
    return low_rank_product(wide(down), wide(up)) * (alpha / down.shape[0])


def channel_norms(weight: Tensor, axis: MagnitudeAxis) -> Tensor:
    """The 2-norm of each channel of a weight `[out, in, *kernel]`, in fp32 or wider.

    Returns:
        For `in` the norms over output and kernel, `[1, in, *1]`; for `out` those over input and
        kernel, `[out, 1, *1]`.
    """
    nothing = wide(weight[:0])  # [0, in, *kernel]
    return updated_norms(weight, nothing, nothing.new_empty(weight.shape[0], 0), 0.0, axis)


def updated_norms(
    weight: Tensor, down: Tensor, up: Tensor, scale: float, axis: MagnitudeAxis
) -> Tensor:
    """`channel_norms` of V = W + scale * B A, without forming V or B A.

    |V|^2 = |W|^2 + 2 scale <W, B A> + scale^2 |B A|^2 in each channel, where the last two terms
    need no more than products with the r rows of A and columns of B. While B is 0 it is exactly
    the norm of W. Its error is some 10^-7 of |W|, so a channel that B A all but cancels has fewer
    digits.

    Args:
        weight: W, `[out, in, *kernel]`.
        down, up: A `[r, in, *kernel]` and B `[out, r, *1]`, in fp32 or wider.
    """
    a, b = down.flatten(1), up.flatten(1)  # [r, in*k], [out, r]
    squares, crossed = [], []
    for rows, block in _row_blocks(weight):  # [n, in*k]
        squares.append(block.square().sum(0 if axis == "in" else 1))
        crossed.append(b[rows].T @ block if axis == "in" else block @ a.T)
    if axis == "in":
        mixed = 2 * scale * torch.stack(crossed).sum(0) + scale**2 * (b.T @ b) @ a  # [r, in*k]
        columns = torch.stack(squares).sum(0) + (a * mixed).sum(0)
        total = columns.reshape(weight.shape[1], -1).sum(1)  # [in]
    else:
        mixed = 2 * scale * torch.cat(crossed) + scale**2 * b @ (a @ a.T)  # [out, r]
        total = torch.cat(squares) + (b * mixed).sum(1)  # [out]
    return total.clamp_min(0).sqrt().reshape(magnitude_shape(weight.shape, axis))


def _row_blocks(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """A weight `[out, in, *kernel]` as matrices `[n, in * k]` of its rows, in fp32 or wider.

    On a CPU in blocks that stay in the cache: there a temporary tensor of the weight's own size
    costs ten times what is computed with it. Elsewhere in one piece.
    """
    flat = weight.flatten(1)
    step = flat.shape[0]
    if weight.device.type == "cpu":
        step = max(1, _CPU_BLOCK // flat.shape[1])
    for start in range(0, flat.shape[0], step):
        rows = slice(start, start + step)
        yield rows, wide(flat[rows])


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
    own = wide(base_weight)
    ratio = magnitude_ratio(wide(magnitude), channel_norms(own + low_rank, axis))
    return (ratio - 1) * own + ratio * low_rank


def hadamard_delta(w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor, alpha: float) -> Tensor:
    """alpha / r * (W1a W1b) * (W2a W2b), entry by entry: what LoHa adds, in fp32 or wider.

    Source: Hyeon-Woo et al., arXiv:2108.06098, section 2.2.

    Args:
        w1_a, w2_a: `[out, r]`.
        w1_b, w2_b: `[r, in, *kernel]`.

    Returns:
        `[out, in, *kernel]`.
    """
    first = low_rank_product(wide(w1_b), wide(w1_a))
    return first * low_rank_product(wide(w2_b), wide(w2_a)) * (alpha / w1_b.shape[0])


def kronecker_delta(w1: Sequence[Tensor], w2: Sequence[Tensor], scale: float) -> Tensor:
    """scale * W1 (x) W2, what LoKr adds, in fp32 or wider.

    Source: Edalati et al., arXiv:2212.10650, section 3.1; Yeh et al., arXiv:2309.14859, section 3.

    Args:
        w1: W1 `[out / k, in / n]`, or two factors of it, `[out / k, r]` and `[r, in / n]`.
        w2: W2 `[k, n, *kernel]`, or two factors of it, `[k, r]` and `[r, n, *kernel]`.

    Returns:
        `[out, in, *kernel]`.
    """
    left, right = multiplied(w1), multiplied(w2)
    left = left.reshape(*left.shape, *(1 for _ in right.shape[2:]))
    return torch.kron(left, right) * scale


def multiplied(factors: Sequence[Tensor]) -> Tensor:
    """The matrix that one tensor is, or the product of two, in fp32 or wider."""
    if len(factors) == 1:
        return wide(factors[0])
    left, right = factors
    return low_rank_product(wide(right), wide(left))


def wide(tensor: Tensor) -> Tensor:
    """fp16 and bf16 as fp32; wider numbers as they are."""
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()
