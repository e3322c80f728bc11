"""A batch whose samples use different adapters, for the length of a `with`.

    per_sample = PerSample(base.parts, pages)
    with per_sample.drawing([{"cat": Weight(0.8)}, {"dog": Weight(1), "ink": Weight(0.5)}, {}]):
        base.predict(latents, timesteps, conditioning)

Each sample's output is what it would be alone with its adapters live on the base: the base's
product is computed once for all rows, and each row gets its own sample's updates beside it. They
are added by forward hooks on the base's own layers, so no module changes its place or its forward,
adapters that were injected stay as they are, and after the `with` nothing is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lora_diffusion.errors import InputError, printable
from lora_diffusion.injection import Parts, adaptable_layers
from lora_diffusion.keys import PARTS, UNET, LayerKey
from lora_diffusion.multi.pages import AdapterPages
from lora_diffusion.multi.products import Update, Use, padded, segments

_TEXT = tuple(part for part in PARTS if part != UNET)
# Where starting a kernel costs more than padding: there the rows are computed in few products.
_PADDED_ON = ("cuda", "xpu")
_Products = Callable[[Sequence[Use], int], list[Update]]


@dataclass(frozen=True)
class Weight:
    """How strongly one sample uses an adapter; any finite number, also negative or 0.

    Attributes:
        unet: in the UNet.
        text: in the text encoders; None takes that of the UNet.
    """

    unet: float
    text: float | None = None

    def of(self, part: str) -> float:
        return self.unet if part == UNET or self.text is None else self.text


Mix = Mapping[str, Weight]  # what one sample uses: adapter name -> weight


class PerSample:
    """Puts mixes of adapters on a base.

    Args:
        parts: part name -> model; the base's own dict, where parts may be loaded later.
        pages: where the adapters are.
    """

    def __init__(self, parts: Parts, pages: AdapterPages) -> None:
        self.parts = parts
        self.pages = pages

    @contextmanager
    def drawing(self, mixes: Sequence[Mix]) -> Iterator[None]:
        """Inside, the UNet's rows use the adapters of their samples.

        Row i of a batch belongs to sample i mod `len(mixes)`. Under guidance, where the rows of
        the negative prompts come first and then those of the prompts, both of a sample use its
        adapters.

        Raises:
            InputError: an unknown adapter, a weight that is not finite, or more than the device's
                budget at once.
            AdapterFileError: a file can't be read, or has changed.
        """
        with self._hooked(mixes, (UNET,)):
            yield

    @contextmanager
    def encoding(self, mix: Mix) -> Iterator[None]:
        """Inside, the text encoders use the adapters of one mix, whatever they encode.

        Prompts of several mixes are encoded mix by mix: long prompts have several rows each, so
        rows alone don't tell samples.

        Raises:
            as `drawing`.
        """
        with self._hooked([mix], _TEXT):
            yield

    @contextmanager
    def _hooked(self, mixes: Sequence[Mix], parts: Collection[str]) -> Iterator[None]:
        _check(mixes)
        layers = adaptable_layers(self.parts)
        uses: dict[LayerKey, list[Use]] = {}
        used = {
            name
            for mix in mixes
            for name, weight in mix.items()
            if any(weight.of(part) for part in parts)
        }
        with self.pages.use(sorted(used)) as pages:
            for sample, mix in enumerate(mixes):
                for name, weight in mix.items():
                    for key, adapter in pages.get(name, {}).items():
                        strength = weight.of(key.part)
                        if key.part in parts and key in layers and strength != 0:
                            uses.setdefault(key, []).append((sample, adapter, strength))
            handles = []
            try:
                for key, of_layer in uses.items():
                    layer = layers[key]
                    updates = _products_on(layer.own_weight)(of_layer, len(mixes))
                    hook = _hook(updates, layer.own_weight, len(mixes))
                    handles.append(layer.module.register_forward_hook(hook))
                yield
            finally:
                for handle in handles:
                    handle.remove()


def _products_on(weight: Tensor) -> _Products:
    return padded if weight.device.type in _PADDED_ON else segments


def _hook(
    updates: Sequence[Update], weight: Tensor, count: int
) -> Callable[[nn.Module, tuple[Any, ...], Any], Tensor]:
    def add(_module: nn.Module, inputs: tuple[Any, ...], y: Any) -> Tensor:
        x: Tensor = inputs[0]
        if len(x) % count:
            raise ValueError(f"{len(x)} rows can't be shared out among {count} samples")
        output: Tensor = y
        for update in updates:
            output = update.add_to(output, x, weight)
        return output

    return add


def _check(mixes: Sequence[Mix]) -> None:
    if not mixes:
        raise ValueError("a batch has at least one sample")
    for mix in mixes:
        for name, weight in mix.items():
            if not math.isfinite(weight.unet) or not math.isfinite(weight.of(_TEXT[0])):
                raise InputError(f"The weight of '{printable(name)}' must be a finite number.")
