"""The singular value decomposition of one layer's update, from its factors where they allow it.

| kind | how | dense |
| --- | --- | --- |
| LoRA | QR of B and of A, SVD of the r x r between | no |
| LoHa | the same, as a product of r^2 columns and r^2 rows | where r^2 exceeds a side |
| LoKr | the products of the SVDs of W1 and W2 | no |
| DoRA | of m * (W0 + s B A) / norm - W0; without a base of s B A alone | with a base |
| full | of the difference | yes |

Weights are flat here: `[out, in * kernel]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_diffusion import algebra
from lora_diffusion.factors import DoRAFactors, Factors, LoHaFactors, LoKrFactors, LoRAFactors
from lora_diffusion.shapes import full_rank


@dataclass(frozen=True, eq=False)
class Directions:
    """U S V^T of an update, its singular values descending; fp64, zeros left out.

    Attributes:
        left: U, `[out, k]`: the directions it writes into.
        values: S, `[k]`.
        right: V^T, `[k, in * kernel]`: the directions it reads.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def norm(self) -> float:
        """The Frobenius norm of the update."""
        return float(self.values.square().sum().sqrt())

    def first(self, count: int) -> Directions:
        """Only the strongest `count` directions."""
        return Directions(self.left[:, :count], self.values[:count], self.right[:count])


def directions(factors: Factors, base_weight: Tensor | None = None) -> Directions:
    """The directions of an update at strength 1.

    Args:
        base_weight: W0, which DoRA's update depends on. Without it, DoRA's is told by its
            low-rank part alone.
    """
    if isinstance(factors, LoRAFactors) and (base_weight is None or factors.kind == "lora"):
        down, up = factors.down.double().flatten(1), factors.up.double().flatten(1)
        return _of_product(up * (factors.alpha / factors.rank), down)
    if isinstance(factors, LoHaFactors) and factors.rank**2 < full_rank(factors.weight_shape):
        up = _columns_multiplied(factors.w1_a.double(), factors.w2_a.double())  # [out, r^2]
        down = _columns_multiplied(
            factors.w1_b.double().flatten(1).T, factors.w2_b.double().flatten(1).T
        ).T  # [r^2, in * k]
        return _of_product(up * (factors.alpha / factors.rank), down)
    if isinstance(factors, LoKrFactors):
        return _of_kronecker(factors)
    weight = base_weight if isinstance(factors, DoRAFactors) else None
    return _of_dense(factors.delta(weight).double().flatten(1))


def effective_rank(values: Tensor) -> float:
    """exp of the entropy of the singular values taken as shares: from 1 to their number.

    Source: Roy & Vetterli, "The effective rank: a measure of effective dimensionality" (EUSIPCO
    2007), definition 1. 0 for an update of zeros.

    values: `[k]`, not negative.
    """
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values[values > 0] / total
    return math.exp(-float((shares * shares.log()).sum()))


def _of_product(up: Tensor, down: Tensor) -> Directions:
    """U S V^T of up @ down, `[out, k] @ [k, in]`, by way of the k x k between their QRs."""
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    inner = _of_dense(r_up @ r_down.T)
    return Directions(q_up @ inner.left, inner.values, inner.right @ q_down.T)


def _columns_multiplied(a: Tensor, b: Tensor) -> Tensor:
    """Every column of a times every one of b, entry by entry: `[n, p], [n, q]` to `[n, p * q]`."""
    return (a[:, :, None] * b[:, None, :]).flatten(1)


def _of_kronecker(factors: LoKrFactors) -> Directions:
    """Singular values of a Kronecker product are the products; directions their Kronecker's."""
    one = _of_dense(algebra.multiplied(factors.w1).double())
    two = _of_dense(algebra.multiplied(factors.w2).double().flatten(1))
    values = torch.outer(one.values, two.values).flatten() * (factors.alpha / factors.rank)
    order = values.argsort(descending=True)
    first, second = order // len(two.values), order % len(two.values)
    left = one.left[:, None, first] * two.left[None, :, second]  # [m, k, n]
    right = one.right[first][:, :, None] * two.right[second][:, None, :]  # [n, p, q]
    return Directions(left.flatten(0, 1), values[order], right.flatten(1))


def _of_dense(matrix: Tensor) -> Directions:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    # fp32 factors are no more exact than this: what is below is the rounding of zeros
    kept = int((values > values[:1] * torch.finfo(torch.float32).eps).sum())
    return Directions(left[:, :kept], values[:kept], right[:kept])
