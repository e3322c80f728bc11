"""The kinds of adapter, each a module with one method: its update of one layer's output.

An update is a function of the layer's input and of the base's own weight W0, never of the output
of other adapters, so that several on one base add up in any order. `adapter` has what all kinds
share; each kind's own file has its paper and equation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal

from torch import nn

from lora_diffusion.algebra import MagnitudeAxis
from lora_diffusion.factors import Factors, FactorsKind
from lora_diffusion.keys import LayerKey
from lora_diffusion.shapes import lokr_shapes
from lora_diffusion.variants.adapter import Adapter, Init, weight_of
from lora_diffusion.variants.dora import DoRA
from lora_diffusion.variants.full import Full
from lora_diffusion.variants.loha import LoHa
from lora_diffusion.variants.lokr import LoKr
from lora_diffusion.variants.lora import LoRA, RsLoRA

__all__ = [
    "Adapter",
    "DoRA",
    "Full",
    "Init",
    "KindName",
    "LoHa",
    "LoKr",
    "LoRA",
    "RsLoRA",
    "Variant",
    "from_factors",
    "variant",
    "weight_of",
]

KindName = Literal["lora", "dora", "rslora", "loha", "lokr"]
Variant = Callable[[nn.Module, LayerKey, int, float], Adapter]

_HOLDERS: Mapping[FactorsKind, type[Adapter]] = MappingProxyType(
    {"lora": LoRA, "dora": DoRA, "loha": LoHa, "lokr": LoKr, "full": Full}
)


def variant(
    kind: KindName, dora_axis: MagnitudeAxis = "in", lokr_factor: int | None = None
) -> Variant:
    """What makes adapters of a kind: (base layer, key, rank, alpha) -> adapter.

    Args:
        dora_axis: DoRA's axis; no other kind has one.
        lokr_factor: how LoKr splits channels, as `shapes.split` takes it; no other kind does.
    """
    kinds: dict[KindName, Variant] = {
        "lora": LoRA,
        "rslora": RsLoRA,
        "dora": partial(DoRA, axis=dora_axis),
        "loha": LoHa,
        "lokr": partial(_lokr, lokr_factor),
    }
    return kinds[kind]


def from_factors(base: nn.Module, key: LayerKey, factors: Factors) -> Adapter:
    """An adapter for `base` with the numbers of `factors`, which fit it."""
    return _HOLDERS[factors.kind].holding(base, key, factors)


def _lokr(factor: int | None, base: nn.Module, key: LayerKey, rank: int, alpha: float) -> LoKr:
    return LoKr(base, key, lokr_shapes(tuple(weight_of(base).shape), rank, factor), alpha)
