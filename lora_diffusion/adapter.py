"""`Factors` and `AdapterFile`: what an adapter is, whatever dialect its file is written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lora_diffusion.algebra import delta
from lora_diffusion.keys import LayerKey


@dataclass(frozen=True, eq=False)
class Factors:
    """One layer's update: delta = alpha / rank * up @ down.

    Attributes:
        down: A, `[r, in]` (linear) or `[r, in, kh, kw]` (convolution).
        up: B, `[out, r]` or `[out, r, 1, 1]`.
        alpha: the numerator of the scale; the denominator is the rank.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def is_conv(self) -> bool:
        return self.down.dim() == 4

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the base weight this belongs to."""
        return (self.up.shape[0], *self.down.shape[1:])

    def delta(self) -> Tensor:
        """alpha / rank * up @ down, `weight_shape`, fp32 or wider."""
        return delta(self.down, self.up, self.alpha)


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
