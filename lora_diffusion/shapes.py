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
