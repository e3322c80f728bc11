"""Cutting an update down to its strongest directions, which is the nearest of that rank.

Source: Eckart & Young, "The approximation of one matrix by another of lower rank" (1936).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_diffusion.analyse.svd import Directions, directions
from lora_diffusion.errors import InputError
from lora_diffusion.factors import Factors, LoRAFactors


@dataclass(frozen=True)
class Limit:
    """How far to cut a layer; both may be given, and the rank has the last word.

    Attributes:
        rank: most ranks that are kept; None for as many as it takes.
        error: Frobenius norm of what is left out over the whole's, at most; the fewest ranks that
            keep to it are taken. None for no cutting by error.

    Raises:
        InputError: numbers that can't be meant.
    """

    rank: int | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise InputError(f"rank is {self.rank}; it must be at least 1.")
        if self.error is not None and not 0 <= self.error < 1:
            raise InputError(f"error is {self.error:g}; it must lie between 0 and 1.")

    @classmethod
    def of_energy(cls, energy: float, rank: int | None = None) -> Limit:
        """Keep at least the share `energy` of the squared norm, in (0, 1].

        Raises:
            InputError: another share.
        """
        if not 0 < energy <= 1:
            raise InputError(f"energy is {energy:g}; it must lie above 0, up to 1.")
        return cls(rank, math.sqrt(1 - energy))

    @property
    def cuts(self) -> bool:
        """Whether anything is limited at all."""
        return self.rank is not None or self.error is not None


def cut(found: Directions, shape: Sequence[int], limit: Limit) -> LoRAFactors:
    """The strongest directions of an update of a weight of `shape`, as LoRA.

    Returns:
        fp32, the singular values shared out between A and B; at least one rank, alpha = rank.
    """
    count = len(found.values)
    if limit.error is not None and count:
        squares = found.values.square()
        without = squares.flip(0).cumsum(0).flip(0)  # squared norm of the directions i and above
        count = int((without > limit.error**2 * squares.sum()).sum())
    count = max(1, count if limit.rank is None else min(count, limit.rank))
    outputs, inputs, *kernel = shape
    up, down = torch.zeros(outputs, count), torch.zeros(count, math.prod(shape[1:]))
    if len(found.values):
        roots = found.values[:count].sqrt()
        up, down = found.left[:, :count] * roots, found.right[:count] * roots[:, None]
    ones = (1,) * len(kernel)
    return LoRAFactors(
        down.float().reshape(count, inputs, *kernel),
        up.float().reshape(outputs, count, *ones),
        float(count),
    )


def cut_factors(factors: Factors, limit: Limit) -> LoRAFactors:
    """`cut` of an update that is no function of the base's weight."""
    if type(factors) is LoRAFactors:
        return cut(directions(factors), factors.weight_shape, limit)
    return cut_dense(factors.delta(), limit)


def cut_dense(update: Tensor, limit: Limit) -> LoRAFactors:
    """`cut` of an update `[out, in, *kernel]`."""
    return cut(_directions_of_dense(update.flatten(1).double()), update.shape, limit)


def _directions_of_dense(matrix: Tensor) -> Directions:
    """U S V^T from the eigenvectors of the smaller of M M^T and M^T M, several times cheaper.

    In fp64 that costs digits only of values below 1e-8 of the largest, which fp32 has not anyway;
    those are left out.
    """
    if matrix.shape[0] > matrix.shape[1]:
        turned = _directions_of_dense(matrix.T)
        return Directions(turned.right.T, turned.values, turned.left.T)
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)  # ascending
    values = squares.flip(0).clamp_min(0).sqrt()
    kept = int((values > values[0] * torch.finfo(torch.float32).eps).sum())
    left, values = vectors.flip(1)[:, :kept], values[:kept]
    return Directions(left, values, (left.T @ matrix) / values[:, None])
