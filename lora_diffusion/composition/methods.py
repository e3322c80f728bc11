"""Ways to combine weighted updates of one layer, as pure functions. Each d_i is w_i * delta_i.

| method | the layer's update |
| --- | --- |
| sum | sum d_i |
| TIES | the mean of each d_i's largest entries, as far as they have their sum's sign |
| DARE | sum m_i * d_i / p, each entry of m_i being 1 with probability p |
| prune | of each d_i the largest entries; their sum |
| orthogonal | sum c_i d_i, c = C^(-1/2) 1 for unit d_i: what they have in common counts once |

Sources: Yadav et al., "TIES-Merging" (arXiv:2306.01708), section 4: trim, elect sign, disjoint
merge; Yu et al., "Language Models are Super Mario" (arXiv:2311.03099), section 3: drop and rescale;
Löwdin (1950), J. Chem. Phys. 18, 365: symmetric orthogonalisation, the orthonormal set nearest to a
given one, which does not depend on an order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lora_diffusion.randomness import generator

_SINGULAR = 1e-6  # eigenvalues of correlations below it count as 0


def trimmed(update: Tensor, density: float) -> Tensor:
    """The share `density` (0..1] of the entries that is largest by magnitude; the others are 0."""
    kept = max(1, round(density * update.numel()))
    if kept >= update.numel():
        return update
    magnitudes = update.abs().flatten()
    threshold = magnitudes.kthvalue(update.numel() - kept + 1).values
    return torch.where(update.abs() >= threshold, update, 0.0)


def ties(updates: Sequence[Tensor], density: float) -> Tensor:
    """Trim, elect signs, and the mean of what agrees with them."""
    stack = torch.stack([trimmed(update, density) for update in updates])  # [n, out, in, …]
    elected = stack.sum(0).sign()
    agrees = (stack.sign() == elected) & (stack != 0)
    return torch.where(agrees, stack, 0.0).sum(0) / agrees.sum(0).clamp_min(1)


def dare(updates: Sequence[Tensor], density: float, labels: Sequence[str], seed: int) -> Tensor:
    """Keep entries with probability `density`, scale what is left by its inverse, and sum.

    labels: what each draw is for; the same label and seed draw the same mask.
    """
    total = torch.zeros_like(updates[0])
    for update, label in zip(updates, labels, strict=True):
        drawn = torch.rand(update.shape, generator=generator("dare", seed, label))
        total += torch.where(drawn.to(update.device) < density, update, 0.0) / density
    return total


def pruned(updates: Sequence[Tensor], density: float) -> Tensor:
    """The sum of the largest entries of each."""
    total = torch.zeros_like(updates[0])
    for update in updates:
        total += trimmed(update, density)
    return total


def orthogonal_factors(updates: Sequence[Tensor]) -> list[float]:
    """c_i, so that sum c_i d_i is the sum of the d_i made orthogonal, each keeping its norm.

    With unit vectors e_i = d_i / |d_i| and their correlations C = E E^T, Löwdin's are C^(-1/2) E;
    directions in which they depend on each other (eigenvalues of 0) are left out.
    """
    norms = torch.stack([torch.linalg.vector_norm(update.double()) for update in updates])
    units = [
        u.double().flatten() / n.clamp_min(1e-300) for u, n in zip(updates, norms, strict=True)
    ]
    correlations = torch.stack([torch.stack([a @ b for b in units]) for a in units])  # [n, n]
    values, vectors = torch.linalg.eigh(correlations)
    inverse = torch.where(values > _SINGULAR, values.clamp_min(_SINGULAR).rsqrt(), 0.0)
    root = vectors @ torch.diag(inverse) @ vectors.T
    mixed = norms @ root  # sum_i |d_i| (C^-1/2)_ij, the factor of e_j
    return [float(c) for c in mixed / norms.clamp_min(1e-300)]
