"""Shapes of weights `[out, in, *kernel]`. No torch."""

from __future__ import annotations

import math

Shape = tuple[int, ...]


def full_rank(shape: Shape) -> int:
    """The largest rank that a weight can have: its smaller side, the kernel being the input's."""
    return min(shape[0], math.prod(shape[1:]))


def without_unit_kernel(shape: Shape) -> Shape:
    """`shape` without a trailing 1 x 1: linear layers and 1 x 1 convolutions are the same thing."""
    return shape[:2] if shape[2:] == (1, 1) else shape


def split(size: int, factor: int | None = None) -> tuple[int, int]:
    """A number of channels as two factors, the smaller first, as LyCORIS splits it.

    Args:
        factor: if it divides `size`, the two are it and the rest; otherwise the first is the
            largest divisor of `size` up to it. None takes the two nearest to each other.
    """
    if factor is not None and size % factor == 0:
        return factor, size // factor
    most = math.isqrt(size) if factor is None else min(factor, math.isqrt(size))
    first = next(n for n in range(most, 0, -1) if size % n == 0)
    return first, size // first


def lokr_shapes(weight_shape: Shape, rank: int, factor: int | None = None) -> dict[str, Shape]:
    """The parameters of a layer's LoKr by name, as LyCORIS chooses them.

    W1 is one matrix. W2 is two of rank r, unless r is at least half its larger side.

    Args:
        weight_shape: `[out, in, *kernel]`.
        factor: as `split` takes it.
    """
    outputs, inputs, *kernel = weight_shape
    w1_out, w2_out = split(outputs, factor)
    w1_in, w2_in = split(inputs, factor)
    w1 = {"w1": (w1_out, w1_in)}
    if 2 * rank >= max(w2_out, w2_in):
        return w1 | {"w2": (w2_out, w2_in, *kernel)}
    return w1 | {"w2_a": (w2_out, rank), "w2_b": (rank, w2_in, *kernel)}
