"""How much louder an update makes what the base already has."""

from __future__ import annotations

import torch
from torch import Tensor

from lora_diffusion.analyse.results import Amplified
from lora_diffusion.analyse.svd import Directions
from lora_diffusion.keys import LayerKey
from lora_diffusion.randomness import normal


def amplify(
    adapter: str, key: LayerKey, update: Directions, base_weight: Tensor, rank: int
) -> Amplified:
    """Hu et al. (arXiv:2106.09685, section 7.3): project W0 onto the update's subspace.

    Args:
        adapter, key: what the row is of.
        update: of the layer; its strongest `rank` directions count, or all if it has fewer.
        base_weight: W0, `[out, in, *kernel]`.
    """
    weight = base_weight.detach().double().cpu().flatten(1)
    strongest = update.first(rank)
    count = len(strongest.values)
    held = (strongest.left.T @ weight @ strongest.right.T).norm()
    own = torch.linalg.svdvals(weight)[:count].norm()
    left = _random_directions(weight.shape[0], count, "left")
    right = _random_directions(weight.shape[1], count, "right")
    return Amplified(
        adapter=adapter,
        part=key.part,
        path=key.path,
        rank=count,
        update_norm=strongest.norm,
        base_norm=float(weight.norm()),
        base_in_update=float(held),
        base_in_own=float(own),
        base_in_random=float((left.T @ weight @ right).norm()),
        factor=strongest.norm / float(held) if held > 0 else 0.0,
    )


def _random_directions(size: int, count: int, side: str) -> Tensor:
    drawn = normal((size, count), "amplification", side).double()
    basis: Tensor = torch.linalg.qr(drawn).Q
    return basis
