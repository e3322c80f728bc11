"""The same deltas under other alphas, where a reader or a number format can't take the given ones.

delta = alpha / r * B A, so alpha may be any number if B is scaled by the inverse; likewise in the
kinds of LyCORIS.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.keys import PARTS


def with_one_alpha(adapter: AdapterFile) -> AdapterFile:
    """All layers of each model with the alpha that most of them have, and the same deltas.

    diffusers 0.42 reads one alpha for the UNet's attention and one for a text encoder's layers out
    of kohya's files, the most common; with this it applies every layer right, whatever its rank.
    """
    layers = dict(adapter.layers)
    for part in PARTS:
        own = {key: factors for key, factors in layers.items() if key.part == part}
        if own:
            common = Counter(f.alpha for f in own.values()).most_common(1)[0][0]
            layers |= {key: factors.with_alpha(common) for key, factors in own.items()}
    return replace(adapter, layers=layers)


def with_storable_alphas(adapter: AdapterFile, dtype: torch.dtype) -> AdapterFile:
    """Every alpha one that `dtype` holds exactly, and the same deltas.

    rsLoRA's alpha * sqrt(r) is seldom such a number. Rounding it would scale the whole layer, by up
    to 0.05 % in fp16 and 0.4 % in bf16, while the rounding of B scatters to both sides. In fp32 the
    remainder, below 6e-8, is not worth a changed bit.
    """
    if dtype.itemsize >= torch.float32.itemsize:
        return adapter
    layers = {key: f.with_alpha(_nearest(f.alpha, dtype)) for key, f in adapter.layers.items()}
    return replace(adapter, layers=layers)


def _nearest(alpha: float, dtype: torch.dtype) -> float:
    """`alpha` as `dtype` stores it; as it is where that would be no number above 0."""
    stored = float(torch.tensor(alpha, dtype=torch.float64).to(dtype))
    return stored if 0 < stored < float("inf") else alpha
