"""`compose`: any number of adapters on one base, whose weights change without loading anything.

composition = compose(base, [("ink.safetensors", 0.8), ("fox.safetensors", "0.5,text=0")])
images = composition.draw([PictureSpec("a fox")])
composition.set_weights("fox", 0.3)
composition.close()          # the base is what it was, byte for byte
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self
from urllib.parse import quote

import torch
from PIL import Image
from torch import Tensor

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.algebra import wide
from lora_diffusion.composition.gates import TimeGate, gate_for, set_attention
from lora_diffusion.composition.regions import Region, Stage, box_of
from lora_diffusion.composition.sources import Source, check, load_source, name_of
from lora_diffusion.composition.weights import AnyWeights, Weights
from lora_diffusion.errors import InputError, listed, printable
from lora_diffusion.families.base import Conditioning, DiffusionBase, PictureSize
from lora_diffusion.generate import (
    BATCH_SIZE,
    EncodedPrompts,
    PictureSpec,
    StepCallback,
    draw,
    encode,
)
from lora_diffusion.injection import AdapterHandle, Parts, adaptable_shapes, attach
from lora_diffusion.keys import PARTS, UNET, LayerKey

_MODULE_PREFIX = "composed "  # before the names of adapters as modules of the base's layers


@dataclass(eq=False)
class _Member:
    """One adapter of a composition."""

    handle: AdapterHandle
    weights: Weights
    region: Region | None = None
    time_gates: tuple[TimeGate, ...] = ()


class Composition:
    """Adapters on one base, each with weights of its own; what `compose` returns.

    Nothing on the base is merged or copied, so that a changed weight acts at once, and closing
    leaves the base as it was. It is a `generate.Conductor`: `draw` changes the weights from step to
    step where they have a schedule, and places adapters that have a region.
    """

    def __init__(self, base: DiffusionBase | Parts) -> None:
        self._base = base if isinstance(base, DiffusionBase) else None
        self.parts: Parts = base.parts if isinstance(base, DiffusionBase) else base
        self._members: dict[str, _Member] = {}
        self._stage = Stage()
        self._done = 0.0
        self._enabled = True

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters, in the order in which they came."""
        return tuple(self._members)

    def weights(self, name: str) -> Weights:
        """The weights of one adapter."""
        return self._member(name).weights

    def set_weights(self, name: str, weights: AnyWeights) -> None:
        """Weigh an adapter anew; nothing is loaded.

        Raises:
            InputError: no adapter has that name, or the weights cannot be read.
        """
        member = self._member(name)
        member.weights = Weights.of_any(weights)
        self._weigh(member)

    def add(
        self,
        source: Source,
        weights: AnyWeights = 1.0,
        *,
        name: str | None = None,
        region: Region | None = None,
    ) -> str:
        """Put one more adapter on the base.

        Args:
            source: a file, a PEFT folder, or what was loaded from one.
            name: what to call it; None takes the file's name without its ending.
            region: where it acts; None is the whole picture.

        Returns:
            Its name; a number is added to one that is taken.

        Raises:
            InputError: as `compose`; nothing is changed then.
        """
        weighed = Weights.of_any(weights)
        if region is not None:
            self._check_region(region)
        shapes = adaptable_shapes(self.parts)
        check(source, shapes)
        return self._put(load_source(source, shapes), weighed, name or name_of(source), region)

    def remove(self, name: str) -> None:
        """Take an adapter off."""
        member = self._member(name)
        self._unplace(member)
        member.handle.remove()
        del self._members[name]
        self._show_regions()

    def close(self) -> None:
        """Take all adapters off; the base is what it was."""
        for name in self.names:
            self.remove(name)

    def set_region(self, name: str, region: Region | None) -> None:
        """Let an adapter act in one part of the picture; None is the whole picture."""
        member = self._member(name)
        if region is not None:
            self._check_region(region, member)
        self._unplace(member)
        self._place(member, region)

    @property
    def enabled(self) -> bool:
        """Whether the adapters act. Settable, to draw the same picture without them."""
        return self._enabled

    @enabled.setter
    def enabled(self, on: bool) -> None:
        self._enabled = on
        for member in self._members.values():
            member.handle.enabled = on
        self._show_regions()

    def draw(
        self,
        pictures: Sequence[PictureSpec],
        *,
        encoded: EncodedPrompts | None = None,
        on_step: StepCallback | None = None,
        at_once: int = BATCH_SIZE,
    ) -> list[Image.Image]:
        """Draw `pictures` with these adapters; see `generate.draw`."""
        try:
            return draw(
                self._whole_base(), pictures, encoded=encoded, conductor=self, on_step=on_step,
                at_once=at_once,
            )  # fmt: skip
        finally:
            self._go_to(0.0)

    @torch.no_grad()
    def weight(self, key: LayerKey, done: float = 0.0) -> Tensor:
        """W0 + sum of w_i * delta_i(W0) of one layer, fp32 or wider: what `bake` would write.

        Args:
            done: share of the steps done, for weights with a schedule.

        Raises:
            InputError: the layer has no adapter, or one that acts in a region only.
        """
        members = [m for _, m in sorted(self._members.items()) if key in m.handle.layers]
        if not members or any(member.region for member in members):
            raise InputError(f"The layer {key} has no adapter, or one that acts in a region only.")
        own = members[0].handle.layers[key].own_weight
        total = wide(own).clone()
        for member in members:
            adapter = member.handle.layers[key].adapter(member.handle.name)
            total += member.weights.of(key, done) * adapter.delta(own)
        return total

    def adapted(self) -> tuple[LayerKey, ...]:
        """Every layer that an adapter is on."""
        return tuple(dict.fromkeys(k for m in self._members.values() for k in m.handle.layers))

    # What `generate.draw` asks a conductor.

    @torch.no_grad()
    def encode(self, pictures: Sequence[PictureSpec]) -> EncodedPrompts:
        """The prompts of `pictures`, of each region, and of each share at which they change."""
        base = self._whole_base()
        shares = {
            share
            for member in self._members.values()
            if any(key.part != UNET for key in member.handle.layers)
            for share, _ in member.weights.steps
        }
        later = []
        for share in sorted(shares - {0.0}):
            later.append((share, self._encode_at(base, pictures, share)))
        return replace(self._encode_at(base, pictures, 0.0), later=later)

    def direct(
        self, done: float, latent_size: tuple[int, int], regions: Mapping[str, Conditioning]
    ) -> None:
        if not self._enabled:
            return
        missing = self._stage.regions.keys() - regions.keys()
        if missing:
            raise InputError(
                f"The prompts were encoded without the regions {listed(sorted(missing))}. Encode "
                "them again."
            )
        self._go_to(done)
        self._stage.enter(latent_size, regions)

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        base, stage = self._whole_base(), self._stage
        shares = stage.windows(noisy) if self._enabled else {None: torch.ones_like(noisy[:1, :1])}
        rest = shares.pop(None)
        if not shares:
            return base.predict(noisy, timesteps, conditioning)
        mixed = torch.zeros_like(noisy)
        if rest.any():
            mixed += rest * base.predict(noisy, timesteps, conditioning)
        for name, share in shares.items():
            rows, columns = box_of(share, base.size_step_px // base.latent_factor)
            inside = noisy[..., rows, columns]
            if not inside.numel():
                continue
            height, width = (side * base.latent_factor for side in inside.shape[-2:])
            given = base.with_sizes(
                stage.conditioning(name or ""), [PictureSize.whole(height, width)] * len(inside)
            )
            stage.window = name
            try:
                found = base.predict(inside, timesteps, given)
            finally:
                stage.window = None
            mixed[..., rows, columns] += share[..., rows, columns] * found
        return mixed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _put(self, file: AdapterFile, weights: Weights, name: str, region: Region | None) -> str:
        number, free = 2, name
        while free in self._members:
            free, number = f"{name}#{number}", number + 1
        put_off = {key.part for key in file.layers} - (
            self._base.loaded if self._base else set(PARTS)
        )
        if put_off:
            raise RuntimeError(f"load_base put off {sorted(put_off)}, which adapters go on")
        handle = attach(
            self.parts, file, _MODULE_PREFIX + quote(free, safe=" ").replace(".", "%2E")
        )
        handle.enabled = self._enabled
        member = self._members[free] = _Member(handle, weights)
        self._weigh(member)
        self._place(member, region)
        return free

    def _member(self, name: str) -> _Member:
        if name not in self._members:
            known = listed(self.names) or "none"
            raise InputError(f"There is no adapter '{printable(name)}' here, only {known}.")
        return self._members[name]

    def _whole_base(self) -> DiffusionBase:
        if self._base is None:
            raise InputError("Drawing needs a whole base; this composition has its models only.")
        return self._base

    def _encode_at(
        self, base: DiffusionBase, pictures: Sequence[PictureSpec], share: float
    ) -> EncodedPrompts:
        self._go_to(share)
        try:
            regions = {}
            for name, region in self._stage.regions.items() if self._enabled else ():
                self._stage.reading = name
                prompts = [
                    p if region.prompt is None else replace(p, prompt=region.prompt)
                    for p in pictures
                ]
                regions[name] = encode(base, prompts)
        finally:
            self._stage.reading = None
        return replace(encode(base, pictures), regions=regions)

    def _go_to(self, done: float) -> None:
        """Weigh what has a schedule for the share `done` of the steps."""
        before, self._done = self._done, done
        for member in self._members.values():
            if member.weights.step_factor(before) != member.weights.step_factor(done):
                self._weigh(member)

    def _weigh(self, member: _Member) -> None:
        for key, layer in member.handle.layers.items():
            layer.strengths[member.handle.name] = member.weights.of(key, self._done)

    def _check_region(self, region: Region, but: _Member | None = None) -> None:
        for member in self._members.values():
            other = member.region
            if other is None or member is but or other.name != region.name:
                continue
            told = (other.prompt, other.window) == (region.prompt, region.window)
            if not told or not torch.equal(other.mask, region.mask):
                raise InputError(
                    f"The region '{printable(region.name, 60)}' is there already, with another "
                    "mask or prompt. Give this one another name."
                )

    def _place(self, member: _Member, region: Region | None) -> None:
        member.region = region
        if region is not None:
            for key, layer in member.handle.layers.items():
                gate = gate_for(key, region, self._stage, self.parts.get(UNET))
                layer.gates[member.handle.name] = gate
                if isinstance(gate, TimeGate):
                    member.time_gates += (gate,)
        self._show_regions()

    def _unplace(self, member: _Member) -> None:
        for gate in member.time_gates:
            gate.close()
        member.region, member.time_gates = None, ()
        for layer in member.handle.layers.values():
            layer.gates.pop(member.handle.name, None)

    def _show_regions(self) -> None:
        regions = {m.region.name: m.region for m in self._members.values() if m.region}
        self._stage.set(regions)
        if UNET in self.parts:
            reads = any(not region.window for region in regions.values())
            active = self._stage if reads and self._enabled else None
            set_attention(self.parts[UNET], active)


def compose(
    base: DiffusionBase | Parts, adapters: Iterable[tuple[Source, AnyWeights]] = ()
) -> Composition:
    """Put adapters of any kind, rank and dialect on one base: W = W0 + sum of w_i * delta_i(W0).

    Args:
        base: what `load_base` returned, or its models by part (`{"unet": unet}`).
        adapters: each a file (or what was loaded from one) and its weights: `Weights`, a number, or
            text as `Weights.parse` takes it.

    Raises:
        AdapterFileError (an InputError): a file is broken, for another base, of an absurd rank or
            shape, or holds NaN; found before its tensors are in memory, and before anything on the
            base is changed. The message names the file and the reason.
        InputError: weights that cannot be read.
    """
    composition = Composition(base)
    shapes = adaptable_shapes(composition.parts)
    weighed = [(source, Weights.of_any(weights)) for source, weights in adapters]
    for source, _ in weighed:
        check(source, shapes)
    try:
        for source, weights in weighed:
            composition._put(load_source(source, shapes), weights, name_of(source), None)
    except BaseException:
        composition.close()
        raise
    return composition
