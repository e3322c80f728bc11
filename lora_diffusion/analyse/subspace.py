"""How far two updates use the same directions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_diffusion.analyse.svd import Directions, effective_rank


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """phi(i, j) for all i and j: 0 where the subspaces are orthogonal, 1 where one holds the other.

    phi = |U_first[:i] U_second[:j]^T|_F^2 / min(i, j) (Hu et al., arXiv:2106.09685, section 7.2,
    eq. 4), with the strongest i and j directions of either. Two random subspaces of n dimensions
    have max(i, j) / n on average.

    first, second: orthonormal rows, strongest first, `[p, n]` and `[q, n]`. Returns `[p, q]`.
    """
    squares = (first @ second.T).square()  # [p, q]
    rows = torch.arange(1, first.shape[0] + 1)[:, None]
    columns = torch.arange(1, second.shape[0] + 1)[None, :]
    return squares.cumsum(0).cumsum(1) / torch.minimum(rows, columns)


def orthonormal_rows(down: Tensor) -> Tensor:
    """The right singular vectors of A, strongest first, `[r, in * kernel]`, fp64.

    They are what the paper compares: A_{r=8} with A_{r=64}.
    """
    rows: Tensor = torch.linalg.svd(down.double().flatten(1), full_matrices=False).Vh
    return rows


@dataclass(frozen=True)
class Meeting:
    """How two updates of one layer meet.

    Attributes:
        reads: share of their strength on inputs that the other reads too, 0 to 1.
        writes: share of it that goes where the other writes too, 0 to 1.
        overlap: sqrt(reads * writes): they meet where they react to the same and change the same.
        chance: what random directions of the same number would give for `overlap`.
        cosine: of the updates as vectors: 1 the same, -1 opposed, 0 unrelated.
    """

    reads: float
    writes: float
    overlap: float
    chance: float
    cosine: float


def meet(first: Directions, second: Directions) -> Meeting:
    """How two updates of one layer meet; each is there told by its effective rank's directions.

    `reads` is the geometric mean of |D1 V2|^2 / |D1|^2 and |D2 V1|^2 / |D2|^2, V the directions
    that count of the other; `writes` likewise with U^T D.
    """
    counts = [math.ceil(effective_rank(one.values)) for one in (first, second)]
    inputs, outputs = first.right.shape[1], first.left.shape[0]
    if 0 in counts:
        return Meeting(0.0, 0.0, 0.0, 0.0, 0.0)
    right = first.right @ second.right.T  # [k1, k2]
    left = first.left.T @ second.left  # [k1, k2]
    reads = _shared(first.values, second.values, right, counts)
    writes = _shared(first.values, second.values, left, counts)
    middle = math.sqrt(counts[0] * counts[1])
    chance = math.sqrt(min(1.0, middle / inputs) * min(1.0, middle / outputs))
    inner = first.values[:, None] * left * right * second.values[None, :]
    cosine = float(inner.sum()) / (first.norm * second.norm)
    return Meeting(reads, writes, math.sqrt(reads * writes), chance, cosine)


def _shared(first: Tensor, second: Tensor, angles: Tensor, counts: list[int]) -> float:
    """Geometric mean of the shares of energy inside the other's strongest directions."""
    squares = angles.square()
    one = (first.square() * squares[:, : counts[1]].sum(1)).sum() / first.square().sum()
    two = (second.square() * squares[: counts[0]].sum(0)).sum() / second.square().sum()
    return min(1.0, math.sqrt(float(one) * float(two)))
