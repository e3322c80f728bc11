"""`AdapterFile`: what an adapter is, whatever dialect its file is written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lora_diffusion.factors import Factors
from lora_diffusion.keys import LayerKey


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """The meaning of an adapter file.

    Attributes:
        arch: architecture it was made for: `sd15`, `sd21`, `sdxl`.
        layers: every adapted layer and its factors.
        metadata: the header's string-to-string `__metadata__`.
    """

    arch: str
    layers: Mapping[LayerKey, Factors]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def modules_by_part(self) -> dict[str, int]:
        """How many layers each part has: `{"unet": 128, "text_encoder": 48}`."""
        counts: dict[str, int] = {}
        for key in self.layers:
            counts[key.part] = counts.get(key.part, 0) + 1
        return counts
