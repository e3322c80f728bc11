"""From tensors to `Factors`: the numbers of every dialect, once names and shapes are understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lora_diffusion.adapter import AdapterFile, Factors
from lora_diffusion.formats.header import refuse
from lora_diffusion.formats.layout import LayerLayout, checked_alpha
from lora_diffusion.formats.reading import Laid
from lora_diffusion.formats.spelling import ALPHA, DOWN, MAGNITUDE, MID, UP
from lora_diffusion.keys import LayerKey


@dataclass(frozen=True, eq=False)
class Decoded:
    """An adapter and what had to be assumed to read it.

    Attributes:
        adapter: what the file means.
        notes: one sentence for each thing assumed or left out; empty for a complete file.
        embeddings: tensors of textual-inversion embeddings that travelled in the file, by the
            names they had there. No part of the adapter.
    """

    adapter: AdapterFile
    notes: tuple[str, ...] = ()
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)


def decode(
    tensors: Mapping[str, Tensor],
    laid: Laid,
    metadata: Mapping[str, str],
    *,
    source: str | Path = "adapter",
) -> Decoded:
    """What tensors mean; factors keep their dtype and share their memory (Tucker's turn fp32).

    1 x 1 convolutions and linear layers are brought to the form the base has, where `laid` knows
    the base.

    Args:
        tensors: every tensor of the adapter.
        laid: what their names and shapes mean.
        metadata: the adapter's header strings.
        source: file name for messages.

    Raises:
        AdapterFileError: alpha is absurd, or factors are not floating-point.
    """
    layers: dict[LayerKey, Factors] = {
        layer.key: _factors(tensors, layer, source) for layer in laid.layers
    }
    embeddings = {name: tensors[name] for name in laid.embeddings}
    return Decoded(AdapterFile(laid.arch, layers, dict(metadata)), laid.notes, embeddings)


def _factors(tensors: Mapping[str, Tensor], layer: LayerLayout, source: str | Path) -> Factors:
    down, up = tensors[layer.tensors[DOWN]], tensors[layer.tensors[UP]]
    magnitude = tensors[layer.tensors[MAGNITUDE]] if layer.magnitude_axis else None
    core = tensors[layer.tensors[MID]] if MID in layer.tensors else None
    if not all(t is None or t.is_floating_point() for t in (down, up, magnitude, core)):
        refuse(source, f"the factors of '{layer.stem}' are not floating-point numbers")
    alpha = float(layer.rank)
    if ALPHA in layer.tensors:
        alpha = float(tensors[layer.tensors[ALPHA]].item())
    elif layer.stated_alpha is not None:
        alpha = layer.stated_alpha
    if core is not None:
        down, up = _core_multiplied(down, core), up.float()
    kernel = (layer.base_shape or layer.weight_shape)[2:]
    ones = tuple(1 for _ in kernel)
    if magnitude is not None:
        along = (1, -1) if layer.magnitude_axis == "in" else (-1, 1)
        magnitude = magnitude.reshape(*along, *ones)
    return Factors(
        down=down.reshape(*down.shape[:2], *kernel),
        up=up.reshape(*up.shape[:2], *ones),
        alpha=checked_alpha(source, layer.stem, alpha, layer.rank),
        magnitude=magnitude,
        magnitude_axis=layer.magnitude_axis,
    )


def _core_multiplied(down: Tensor, core: Tensor) -> Tensor:
    """Tucker's first two convolutions as one.

    `[r, in, 1, 1]`, then `[r, r, kh, kw]` -> `[r, in, kh, kw]`. The rank stays, so this is
    exact but for rounding, which is in fp32.
    Source: Kim et al., arXiv:1511.06530, as LyCORIS uses it (lycoris/modules/locon.py).
    """
    return torch.einsum("ijkl,jn->inkl", core.float(), down[:, :, 0, 0].float())
