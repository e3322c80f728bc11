"""Put adapters on a model and take them off; base weights are never touched.

handle = inject({"unet": unet}, AdapterConfig(rank=8))
…train handle.parameters()…
handle.save("mine.safetensors")
handle.remove()          # the model is what it was, byte for byte
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lora_diffusion import merge, targets
from lora_diffusion.adapter import AdapterFile
from lora_diffusion.algebra import MagnitudeAxis, magnitude_shape
from lora_diffusion.dropout import Clock, Dropout
from lora_diffusion.errors import InputError, listed, printable
from lora_diffusion.factors import DoRAFactors
from lora_diffusion.keys import PARTS, UNET, LayerKey, live_modules, live_path
from lora_diffusion.layers import AdaptedLayer, is_adaptable
from lora_diffusion.shapes import without_unit_kernel
from lora_diffusion.variants import Adapter, Init, KindName, from_factors, variant, weight_of

if TYPE_CHECKING:
    from lora_diffusion.formats.metadata import TrainingFacts

Parts = Mapping[str, nn.Module]
_FROZEN_HERE = "_lora_diffusion_frozen"


@dataclass(frozen=True)
class AdapterConfig:
    """What to inject.

    Attributes:
        kind: `lora`, `rslora` (scale alpha / sqrt(r)), `dora`, `loha` or `lokr`; see `variants`.
        dora_axis: whose channels DoRA's magnitude scales; other kinds have none.
        lokr_factor: how LoKr splits channels, as `shapes.split` takes it.
        targets: UNet layers, as `targets.select` takes them.
        text_targets: text-encoder layers, likewise.
        rank: r.
        alpha: the scale is alpha / r; None means alpha = r, whatever r a pattern gives.
        conv_rank: r of convolutions with a kernel above 1x1; None takes `rank`.
        conv_alpha: their alpha; None keeps the proportion alpha : rank of the other layers.
        ranks: rank by layer pattern; the last match wins, over `rank` and `conv_rank`.
        alphas: alpha by layer pattern; the last match wins, over `alpha` and `conv_alpha`.
        init: how A starts.
        dropout: shares dropped while training.
        seed: A is a function of (seed, layer).
    """

    kind: KindName = "lora"
    dora_axis: MagnitudeAxis = "in"
    lokr_factor: int | None = None
    targets: str = "attn"
    text_targets: str = "attn"
    rank: int = 16
    alpha: float | None = None
    conv_rank: int | None = None
    conv_alpha: float | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    init: Init = "kaiming"
    dropout: Dropout = field(default_factory=Dropout)
    seed: int = 0

    def size_for(self, key: LayerKey, weight_shape: tuple[int, ...]) -> tuple[int, float]:
        """Rank and alpha of a layer, before a kind folds its own scaling into alpha."""
        sizes = targets.Sizes(
            self.rank, self.alpha, self.conv_rank, self.conv_alpha, self.ranks, self.alphas
        )
        return sizes.of(key, weight_shape)


class AdapterHandle:
    """One named adapter on one base: its layers, strength, and the way back."""

    def __init__(
        self, parts: Parts, name: str, layers: Mapping[LayerKey, AdaptedLayer], clock: Clock
    ) -> None:
        self.parts = dict(parts)
        self.name = name
        self.layers = dict(layers)
        self.clock = clock

    def parameters(self, part: str | None = None) -> list[nn.Parameter]:
        """All that the kind trains of every layer (of one part), in model order."""
        return [p for _, adapter in self.adapters(part) for p in adapter.parameters()]

    def named_parameters(self) -> Iterator[tuple[LayerKey, str, nn.Parameter]]:
        """Layer, name within it (`down`, `up`, …) and parameter, in model order."""
        for key, adapter in self.adapters():
            for name, parameter in adapter.named_parameters():
                yield key, name, parameter

    def adapters(self, part: str | None = None) -> Iterator[tuple[LayerKey, Adapter]]:
        """Each layer's key and adapter module (of one part), in model order."""
        for key, layer in self.layers.items():
            if part is None or key.part == part:
                yield key, layer.adapter(self.name)

    @property
    def trainable(self) -> int:
        """How many numbers the adapter has."""
        return sum(p.numel() for p in self.parameters())

    @property
    def scale(self) -> float:
        """Strength at run time, on top of alpha / r; 1 at first. Settable."""
        return next(iter(self.layers.values())).strengths[self.name]

    @scale.setter
    def scale(self, value: float) -> None:
        for layer in self.layers.values():
            layer.strengths[self.name] = float(value)
        if self.merged:
            self.merge()

    @property
    def enabled(self) -> bool:
        """Whether the adapter acts. Settable; off costs nothing."""
        return self.name not in next(iter(self.layers.values())).disabled

    @enabled.setter
    def enabled(self, on: bool) -> None:
        if not on and self.merged:
            self.unmerge()
        for layer in self.layers.values():
            if on:
                layer.disabled.discard(self.name)
            else:
                layer.disabled.add(self.name)

    @property
    def merged(self) -> bool:
        return any(self.name in layer.merged for layer in self.layers.values())

    def merge(self) -> None:
        """Bake into the base's weights at the present scale: inference at the base's speed."""
        merge.merge(self.layers.values(), self.name)

    def unmerge(self) -> None:
        """Put the base's exact bits back; the adapter acts as before the merge."""
        merge.unmerge(self.layers.values(), self.name)

    def remove(self) -> None:
        """Take the adapter off. Layers without any adapter left are the base's own again."""
        self.unmerge()
        for key, layer in self.layers.items():
            layer.discard(self.name)
            if not layer.adapters:
                _set_module(self.parts[key.part], live_path(key, self.parts[key.part]), layer.base)
        for part in {key.part for key in self.layers}:
            _thaw(self.parts[part])
        self.layers = {}

    def to_file(self, arch: str, metadata: Mapping[str, str] | None = None) -> AdapterFile:
        """A copy of the factors, fp32 on the CPU."""
        layers = {key: adapter.factors() for key, adapter in self.adapters()}
        return AdapterFile(arch=arch, layers=layers, metadata=dict(metadata or {}))

    def save(
        self,
        path: str | Path,
        *,
        format: str = "kohya",
        dtype: str = "fp16",
        arch: str = "sd15",
        facts: TrainingFacts | None = None,
    ) -> None:
        """Write a safetensors file that other tools load, with one alpha in each model."""
        from lora_diffusion.formats import save_adapter

        save_adapter(
            self.to_file(arch), Path(path), format=format, dtype=dtype, facts=facts, one_alpha=True
        )


def inject(parts: Parts, config: AdapterConfig, name: str = "default") -> AdapterHandle:
    """Freeze the models in `parts` and put a new adapter on the layers that `config` names.

    Every kind starts with an update of 0: outputs equal the base's bit for bit until it is trained.

    Args:
        parts: part name (`unet`, `text_encoder`, …) -> model.
        name: under which it stands beside other adapters on the same base.

    Raises:
        InputError: unknown part, a target or a pattern of ranks or alphas that matches nothing, or
            a name already in use.
    """
    candidates = adaptable_layers(parts)
    chosen = [
        key
        for part in parts
        for key in targets.select(
            config.targets if part == UNET else config.text_targets, part, candidates
        )
    ]
    if not chosen:
        raise InputError("No layer is adapted: targets and text targets are both 'none'.")
    targets.check_patterns("adapter.ranks", config.ranks, chosen)
    targets.check_patterns("adapter.alphas", config.alphas, chosen)
    clock = Clock()
    make = variant(config.kind, config.dora_axis, config.lokr_factor)
    made: dict[LayerKey, Adapter] = {}
    for key in chosen:
        layer = candidates[key]
        adapter = make(layer.module, key, *config.size_for(key, layer.shape))
        adapter.reset(config.init, config.seed, layer.own_weight)
        adapter.dropout, adapter.clock = config.dropout, clock
        made[key] = adapter
    return _install(parts, name, made, clock)


def attach(parts: Parts, file: AdapterFile, name: str = "default") -> AdapterHandle:
    """Put a loaded adapter on a base. Parts that the file speaks of must be in `parts`.

    Raises:
        InputError: the file has layers that this base lacks, or of another shape; nothing is
            changed then.
    """
    candidates = adaptable_layers(parts)
    check_fits(file, {key: layer.shape for key, layer in candidates.items()})
    made = {
        key: from_factors(candidates[key].module, key, factors.shaped(candidates[key].shape))
        for key, factors in file.layers.items()
    }
    return _install(parts, name, made, Clock())


def check_fits(file: AdapterFile, shapes: Mapping[LayerKey, tuple[int, ...]]) -> None:
    """Raise `InputError` unless every layer of `file` is in `shapes` with its weight's shape.

    A linear layer and a 1 x 1 convolution are the same thing.
    """
    missing = [key for key in file.layers if key not in shapes]
    if missing:
        raise InputError(
            f"This base model lacks the adapter's layers {listed(missing)}. It was made for "
            "another architecture; load it on the base it was trained for."
        )
    misfits = [
        key
        for key, factors in file.layers.items()
        if without_unit_kernel(shapes[key]) != without_unit_kernel(factors.weight_shape)
    ]
    if misfits:
        first, others = misfits[0], misfits[1:]
        more = f"; likewise {listed(others, shown=4)}" if others else ""
        raise InputError(
            f"The adapter's layer '{first}' fits a weight of shape "
            f"{list(file.layers[first].weight_shape)}, but this base has {list(shapes[first])}"
            f"{more}. Load it on the base it was trained for."
        )
    for key, factors in file.layers.items():
        if isinstance(factors, DoRAFactors):
            _check_magnitude(key, factors)


def _check_magnitude(key: LayerKey, factors: DoRAFactors) -> None:
    """Raise `InputError` unless a DoRA layer's magnitude has its axis' shape."""
    given, axis = tuple(factors.magnitude.shape), factors.axis
    wanted = magnitude_shape(factors.weight_shape, axis)
    if given != wanted:
        raise InputError(
            f"The adapter's layer {printable(key)} has a DoRA magnitude of shape {given} for the "
            f"axis {axis}, where its weight of shape {factors.weight_shape} needs {wanted}."
        )


def adaptable_shapes(parts: Parts) -> dict[LayerKey, tuple[int, ...]]:
    """Weight shape of every layer that an adapter fits."""
    return {key: layer.shape for key, layer in adaptable_layers(parts).items()}


@dataclass(frozen=True, eq=False)
class AdaptableLayer:
    """A base layer that an adapter fits, and its own weight W0, whatever is merged into it."""

    module: nn.Module
    own_weight: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.own_weight.shape)


def adaptable_layers(parts: Parts) -> dict[LayerKey, AdaptableLayer]:
    """Every adaptable base layer under its key, whether it is wrapped already or not."""
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise InputError(f"Unknown model part '{printable(min(unknown))}'. Known: {PARTS}.")
    modules = live_modules(parts)
    wrapped = {
        LayerKey(key.part, f"{key.path}.base")
        for key, module in modules.items()
        if isinstance(module, AdaptedLayer)
    }
    found: dict[LayerKey, AdaptableLayer] = {}
    for key, module in modules.items():
        if isinstance(module, AdaptedLayer):
            found[key] = AdaptableLayer(module.base, module.own_weight)
        elif key not in wrapped and is_adaptable(module):
            found[key] = AdaptableLayer(module, weight_of(module))
    return found


def _install(
    parts: Parts, name: str, made: Mapping[LayerKey, Adapter], clock: Clock
) -> AdapterHandle:
    modules = live_modules(parts)
    if not name or "." in name:
        raise InputError(f"'{printable(name)}' can't name an adapter: it is empty or has a dot.")
    if any(isinstance(m, AdaptedLayer) and name in m.adapters for m in modules.values()):
        raise InputError(f"An adapter called '{printable(name)}' is on this base. Remove it first.")
    layers: dict[LayerKey, AdaptedLayer] = {}
    for part in {key.part for key in made}:
        _freeze(parts[part])
    for key, adapter in made.items():
        layer = modules[key]
        if not isinstance(layer, AdaptedLayer):
            layer = AdaptedLayer(layer)
            layer.train(layer.base.training)
            _set_module(parts[key.part], live_path(key, parts[key.part]), layer)
        adapter.train(layer.training)
        layer.add(name, adapter)
        layers[key] = layer
    return AdapterHandle(parts, name, layers, clock)


def _set_module(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


def _freeze(model: nn.Module) -> None:
    """Stop gradients to the base, and remember which parameters had them."""
    if hasattr(model, _FROZEN_HERE):
        return
    own = [p for p in model.parameters() if p.requires_grad]
    for parameter in own:
        parameter.requires_grad_(False)
    setattr(model, _FROZEN_HERE, own)


def _thaw(model: nn.Module) -> None:
    """Undo `_freeze` once no adapter is left on the model."""
    if any(isinstance(m, AdaptedLayer) for m in model.modules()):
        return
    for parameter in model.__dict__.pop(_FROZEN_HERE, []):
        parameter.requires_grad_(True)
