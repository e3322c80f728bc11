"""`Factors` and `AdapterFile`: what an adapter is, whatever dialect its file is written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lora_diffusion.algebra import MagnitudeAxis, delta, dora_delta
from lora_diffusion.errors import InputError
from lora_diffusion.keys import LayerKey


@dataclass(frozen=True, eq=False)
class Factors:
    """One layer's update: delta = alpha / rank * up @ down, or DoRA's, which has a magnitude.

    Attributes:
        down: A, `[r, in]` (linear) or `[r, in, kh, kw]` (convolution).
        up: B, `[out, r]` or `[out, r, 1, 1]`.
        alpha: the numerator of the scale; the denominator is the rank. rsLoRA is told here as
            alpha * sqrt(rank), so that everybody's alpha / rank is its alpha / sqrt(rank).
        magnitude: DoRA's m, one norm for each channel of `magnitude_axis`: `[1, in]` or
            `[1, in, 1, 1]` along `in`, `[out, 1]` or `[out, 1, 1, 1]` along `out`. None for LoRA.
        magnitude_axis: whose channels m scales; None for LoRA.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None
    magnitude_axis: MagnitudeAxis | None = None

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

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """What is added to the base's weight at strength 1, `weight_shape`, fp32 or wider.

        Args:
            base_weight: the untouched W0, on the factors' device; DoRA's update is a function of
                it, LoRA's is not.

        Raises:
            InputError: this is DoRA and no base weight is given.
        """
        if self.magnitude is None or self.magnitude_axis is None:
            return delta(self.down, self.up, self.alpha)
        if base_weight is None:
            raise InputError(
                "This is a DoRA adapter: its update is a function of the base's weights. Name the "
                "base model too."
            )
        return dora_delta(
            self.down, self.up, self.alpha, self.magnitude, self.magnitude_axis, base_weight
        )


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
