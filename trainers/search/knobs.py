"""What a search turns: one number for each adapter, or for each of its models or blocks. No torch.

Numbers become the same `Weights` that everything else takes, so that what was found can be typed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_diffusion.composition.blocks import blocks_of
from lora_diffusion.composition.weights import TEXT, Weights
from lora_diffusion.keys import UNET, LayerKey

Per = Literal["adapter", "component", "block"]
PER: tuple[Per, ...] = ("adapter", "component", "block")


@dataclass(frozen=True)
class Knob:
    """One number of a search.

    Attributes:
        adapter: whose.
        what: "" for all of it; else `unet`, `text`, or a block of the UNet.
    """

    adapter: str
    what: str = ""

    def read(self, weights: Weights) -> float:
        """What this knob is at, where these weights are its adapter's."""
        if self.what in ("", TEXT):
            return weights.overall * (weights.models.get(TEXT, 1.0) if self.what else 1.0)
        own = weights.overall * weights.models.get(UNET, 1.0)
        return own * weights.blocks.get(self.what, 1.0)

    def __str__(self) -> str:
        return f"{self.adapter}: {self.what}" if self.what else self.adapter


def knobs(adapters: Mapping[str, Sequence[LayerKey]], per: Per) -> list[Knob]:
    """Every number to be found.

    Args:
        adapters: name -> its layers. Models and blocks that it leaves alone get no knob.
    """
    found = []
    for name, layers in adapters.items():
        parts = {_part(key, per) for key in layers}
        found += [Knob(name, what) for what in sorted(parts)]
    return found


def to_weights(numbers: Mapping[Knob, float]) -> dict[str, Weights]:
    """Adapter -> what its knobs' numbers mean, rounded to a hundredth."""
    told: dict[str, Weights] = {}
    for name in dict.fromkeys(knob.adapter for knob in numbers):
        own = {knob.what: round(n, 2) for knob, n in numbers.items() if knob.adapter == name}
        told[name] = Weights(
            overall=own.pop("", 1.0),
            models={what: own.pop(what) for what in (UNET, TEXT) if what in own},
            blocks=own,
        )
    return told


def _part(key: LayerKey, per: Per) -> str:
    if per == "adapter":
        return ""
    if key.part != UNET:
        return TEXT
    if per == "component":
        return UNET
    blocks = blocks_of(key.path)  # the smallest first: up.1.0, up.1, up
    return blocks[-2] if len(blocks) > 1 else blocks[0]
