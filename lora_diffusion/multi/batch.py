"""A batch whose samples use different adapters, for the length of a `with`.

    per_sample = PerSample(base.parts, pages)
    with per_sample.drawing([[("cat", Weights(0.8))], [("dog", Weights()), ("ink", Weights(0.5))]]):
        base.predict(latents, timesteps, conditioning)

Each sample's output is what it would be alone with its adapters live on the base: the base's
product is computed once for all rows, and each row gets its own sample's updates beside it. They
are added by forward hooks on the base's own layers, so no module changes its place or its forward,
adapters that were injected stay as they are, and after the `with` nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lora_diffusion.composition.weights import Weights
from lora_diffusion.injection import Parts, adaptable_layers
from lora_diffusion.keys import PARTS, UNET, LayerKey
from lora_diffusion.multi.pages import AdapterPages, Page
from lora_diffusion.multi.products import Update, Use, padded, segments

Mix = Sequence[tuple[str, Weights]]  # the adapters of one sample, by name

_TEXT = tuple(part for part in PARTS if part != UNET)
# Where starting a kernel costs more than padding: there the rows are computed in few products.
PADDED_ON = ("cuda", "xpu")


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
    def drawing(self, mixes: Sequence[Mix]) -> Iterator[Shown]:
        """Inside, the UNet's rows use the adapters of their samples.

        Row i of a batch belongs to sample i mod `len(mixes)`. Under guidance, where the rows of
        the negative prompts come first and then those of the prompts, both of a sample use its
        adapters.

        Raises:
            InputError: an unknown adapter, or more than the device's budget at once.
            AdapterFileError: a file can't be read, or has changed.
        """
        with self._shown(mixes, (UNET,), 0.0) as shown:
            yield shown

    @contextmanager
    def encoding(self, mix: Mix, done: float = 0.0) -> Iterator[None]:
        """Inside, the text encoders use the adapters of one mix, whatever they encode.

        Prompts of several mixes are encoded mix by mix: long prompts have several rows each, so
        rows alone don't tell samples.

        Args:
            done: share of the denoising steps done, for weights with a schedule.

        Raises:
            as `drawing`.
        """
        with self._shown([mix], _TEXT, done):
            yield

    @contextmanager
    def _shown(self, mixes: Sequence[Mix], parts: Collection[str], done: float) -> Iterator[Shown]:
        if not mixes:
            raise ValueError("a batch has at least one sample")
        models = {part: model for part, model in self.parts.items() if part in parts}
        used = dict.fromkeys(name for mix in mixes for name, weights in mix if weights.overall)
        with self.pages.use(used) as pages:
            shown = Shown(models, pages, mixes, done)
            try:
                yield shown
            finally:
                shown.close()


class Shown:
    """Mixes that are on a base at the moment."""

    def __init__(
        self, models: Parts, pages: Mapping[str, Page], mixes: Sequence[Mix], done: float
    ) -> None:
        self._layers = adaptable_layers(models)
        self._pages = pages
        self._mixes = mixes
        self._done = done
        self._hooks: list[RemovableHandle] = []
        self._place()

    def go_to(self, done: float) -> None:
        """Weigh what has a schedule for the share `done` (0..1) of the denoising steps."""
        before, self._done = self._done, done
        weights = [weights for mix in self._mixes for _, weights in mix]
        if any(w.step_factor(before) != w.step_factor(done) for w in weights):
            self.close()
            self._place()

    def close(self) -> None:
        """Take the mixes off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _place(self) -> None:
        count = len(self._mixes)
        try:
            for key, uses in self._uses().items():
                layer = self._layers[key]
                updates = products_on(layer.own_weight)(uses, count)
                hook = hook_of(updates, layer.own_weight, count)
                self._hooks.append(layer.module.register_forward_hook(hook))
        except BaseException:  # no memory for padded factors: leave nothing behind
            self.close()
            raise

    def _uses(self) -> dict[LayerKey, list[Use]]:
        """Layer -> what its rows use, in the order of the samples; an adapter once a sample."""
        strengths: dict[LayerKey, dict[tuple[int, str], float]] = {}
        for sample, mix in enumerate(self._mixes):
            for name, weights in mix:
                for key in self._pages.get(name, {}):
                    if key in self._layers:
                        of_layer = strengths.setdefault(key, {})
                        before = of_layer.get((sample, name), 0.0)
                        of_layer[sample, name] = before + weights.of(key, self._done)
        uses = {
            key: [
                (sample, self._pages[name][key], strength)
                for (sample, name), strength in of_layer.items()
                if strength != 0
            ]
            for key, of_layer in strengths.items()
        }
        return {key: of_layer for key, of_layer in uses.items() if of_layer}


def products_on(weight: Tensor) -> Callable[[Sequence[Use], int], list[Update]]:
    """The way to compute updates that suits the device of a layer's weight."""
    return padded if weight.device.type in PADDED_ON else segments


def hook_of(
    updates: Sequence[Update], weight: Tensor, count: int
) -> Callable[[nn.Module, tuple[Any, ...], Any], Tensor]:
    """A forward hook of a base layer that adds `updates` to its output.

    Args:
        weight: the layer's own W0.
        count: samples of a batch, whose rows come in turns.
    """

    def add(_module: nn.Module, inputs: tuple[Any, ...], y: Any) -> Tensor:
        x: Tensor = inputs[0]
        if len(x) % count:
            raise ValueError(f"{len(x)} rows can't be shared out among {count} samples")
        output: Tensor = y
        for update in updates:
            output = update.add_to(output, x, weight)
        return output

    return add
