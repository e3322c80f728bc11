"""From tensors to `Factors`: the numbers of every dialect, once names and shapes are understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.factors import (
    DoRAFactors,
    Factors,
    FullFactors,
    LoHaFactors,
    LoKrFactors,
    LoRAFactors,
)
from lora_diffusion.formats.header import refuse
from lora_diffusion.formats.layout import LayerLayout, checked_alpha
from lora_diffusion.formats.measure import Kind
from lora_diffusion.formats.reading import Laid
from lora_diffusion.formats.spelling import (
    ALPHA,
    DIFF,
    DOWN,
    MAGNITUDE,
    MID,
    UP,
    Leaf,
)
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
        layer.key: decode_layer(tensors, layer, source) for layer in laid.layers
    }
    embeddings = {name: tensors[name] for name in laid.embeddings}
    return Decoded(AdapterFile(laid.arch, layers, dict(metadata)), laid.notes, embeddings)


def decode_layer(tensors: Mapping[str, Tensor], layer: LayerLayout, source: str | Path) -> Factors:
    """What one layer's tensors mean; arguments and errors as in `decode`."""
    found = {leaf: tensors[name] for leaf, name in layer.tensors.items()}
    if not all(t.is_floating_point() for leaf, t in found.items() if leaf != ALPHA):
        refuse(source, f"the factors of '{layer.stem}' are not floating-point numbers")
    alpha = float(layer.rank)
    if layer.is_scaled and ALPHA in found:
        alpha = float(found[ALPHA].item())
    elif layer.stated_alpha is not None:
        alpha = layer.stated_alpha
    alpha = checked_alpha(source, layer.stem, alpha, layer.rank)
    weight_shape = layer.base_shape or layer.weight_shape
    return _BUILDERS[layer.kind](found, layer, alpha).shaped(weight_shape)


def _lora(found: Mapping[Leaf, Tensor], layer: LayerLayout, alpha: float) -> LoRAFactors:
    down, up = found[DOWN], found[UP]
    if MID in found:
        down, up = _core_multiplied(found[MID], down[:, :, 0, 0]), up.float()
    return LoRAFactors(down, up, alpha)


def _dora(found: Mapping[Leaf, Tensor], layer: LayerLayout, alpha: float) -> DoRAFactors:
    plain = _lora(found, layer, alpha)
    assert layer.magnitude_axis
    return DoRAFactors(plain.down, plain.up, alpha, found[MAGNITUDE], layer.magnitude_axis)


def _loha(found: Mapping[Leaf, Tensor], layer: LayerLayout, alpha: float) -> LoHaFactors:
    first = _product(found, "hada_w1_a", "hada_w1_b", "hada_t1")
    second = _product(found, "hada_w2_a", "hada_w2_b", "hada_t2")
    return LoHaFactors(*first, *second, alpha)


def _lokr(found: Mapping[Leaf, Tensor], layer: LayerLayout, alpha: float) -> LoKrFactors:
    w1 = (found["lokr_w1"],) if "lokr_w1" in found else (found["lokr_w1_a"], found["lokr_w1_b"])
    w2: tuple[Tensor, ...]
    if "lokr_w2" in found:
        w2 = (found["lokr_w2"],)
    else:
        w2 = _product(found, "lokr_w2_a", "lokr_w2_b", "lokr_t2")
    return LoKrFactors(w1, w2, alpha)


def _full(found: Mapping[Leaf, Tensor], layer: LayerLayout, alpha: float) -> FullFactors:
    return FullFactors(found[DIFF])


_BUILDERS: Mapping[Kind, Callable[[Mapping[Leaf, Tensor], LayerLayout, float], Factors]] = {
    "lora": _lora,
    "dora": _dora,
    "loha": _loha,
    "lokr": _lokr,
    "full": _full,
}


def _product(found: Mapping[Leaf, Tensor], a: Leaf, b: Leaf, core: Leaf) -> tuple[Tensor, Tensor]:
    """Two factors; of Tucker's three the last two as one, and the first turned around."""
    if core not in found:
        return found[a], found[b]
    return found[a].float().T, _core_multiplied(found[core], found[b])


def _core_multiplied(core: Tensor, inner: Tensor) -> Tensor:
    """Tucker's first two convolutions as one.

    `[r, in]`, then `[r, r, kh, kw]` -> `[r, in, kh, kw]`. The rank stays, so this is exact but
    for rounding, which is in fp32.
    Source: Kim et al., arXiv:1511.06530, as LyCORIS uses it (lycoris/functional/general.py).
    """
    return torch.einsum("ijkl,jn->inkl", core.float(), inner.float())
