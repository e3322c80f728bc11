"""How much memory a run will take, from its settings and the base's configuration. No torch.

Each phase of a run is written down operation by operation (`tape`), so the figure follows from
sizes and settings, not from a rule of thumb. It counts tensors; a GPU's own overhead is added.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from lora_diffusion import targets
from lora_diffusion.base_layers import of_configs
from lora_diffusion.families.outline import VAE, Outline
from lora_diffusion.families.outline import outline as look_into
from lora_diffusion.keys import UNET, LayerKey
from lora_diffusion.shapes import Shape, lokr_shapes
from trainers.planner import clip, vae
from trainers.planner.layers import FP32, Adapted, Grid, Net
from trainers.planner.tape import Tape
from trainers.planner.unet import Unet
from trainers.spec import JobSpec

Phase = Literal["encode pictures", "draw class pictures", "train", "draw previews"]
# Pictures that go through a model at once: no more than this many, and no more px.
_AT_ONCE, _ENCODED_PX, _DECODED_PX = 4, 4 * 512**2, 512**2
_HALF, _FP8 = 2, 1
_8BIT_FROM = 4096  # bitsandbytes keeps 32 bits for smaller tensors
# Of a CUDA process: its context and kernels, and what the allocator can't use of its blocks.
_GPU_OWN_BYTES, _GPU_UNUSED = 600 << 20, 0.05
# Bytes that an optimizer keeps for each trained number.
_STATE_BYTES: Mapping[str, int] = {
    "adamw": 8, "adamw8bit": 2, "adafactor": 0, "prodigy": 16, "schedulefree": 8, "lion": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """Memory of a run, in bytes of tensors.

    Attributes:
        phases: the most that is alive at once in each phase that the run has.
        weights: the base's models, while training.
        adapter: its numbers, their average, and what the optimizer keeps of them.
        activations: what a step makes: activations, gradients and all that passes.
        overhead: what a GPU takes besides; 0 without one.
    """

    phases: Mapping[Phase, int]
    weights: int
    adapter: int
    activations: int
    overhead: int

    @property
    def peak(self) -> int:
        """The most at once, with the overhead."""
        return max(self.phases.values()) + self.overhead

    @property
    def worst(self) -> Phase:
        return max(self.phases, key=self.phases.__getitem__)


def estimate(spec: JobSpec, *, gpu: bool, outline: Outline | None = None) -> Estimate:
    """What a run of `spec` takes at its peak.

    Args:
        gpu: whether it runs on one; decides what precision `auto` is.
        outline: the base, if it was looked into before.

    Raises:
        InputError: the base is not there or can't be looked into, or targets match no layer.
    """
    return _Plan(spec, gpu, outline or look_into(spec.model.base, spec.model.arch)).estimate()


@dataclass(frozen=True)
class _Plan:
    spec: JobSpec
    gpu: bool
    outline: Outline

    def estimate(self) -> Estimate:
        spec = self.spec
        adapted = dict(self._adapted())
        trained_texts = {key.part for key in adapted if key.part != UNET}
        weights = {part: self._weights(part) for part in self.outline.configs}
        decoder = self._decoder_weights()
        everything = sum(weights.values())
        # Encoding needs the whole VAE; after it the decoder is left, and what is trained. Nothing
        # can be let go where pictures and captions are encoded at each step.
        kept = everything
        if spec.data.cache != "off":
            kept -= weights[VAE] - decoder
            if not trained_texts:
                kept -= sum(weights[part] for part in weights if part not in (UNET, VAE))
        adapter = sum(self._adapter_bytes(tensors) for _, tensors in self._adapter_tensors())
        activations = self._step(adapted)
        waiting = weights[UNET] if spec.model.low_memory and not spec.data.class_pictures else 0
        phases: dict[Phase, int] = {"encode pictures": everything - waiting + self._encoding()}
        if spec.data.class_pictures:
            phases["draw class pictures"] = everything + self._drawing(self._side_px, {}, _AT_ONCE)
        phases["train"] = kept + adapter + activations
        if spec.preview.enabled:
            side = spec.preview.size_px or self._side_px
            drawn = 1 if spec.model.low_memory else _AT_ONCE
            phases["draw previews"] = kept + adapter + self._drawing(side, adapted, drawn)
        most = max(phases.values())
        overhead = int(_GPU_OWN_BYTES + _GPU_UNUSED * most) if self.gpu else 0
        return Estimate(phases, kept, adapter, activations, overhead)

    @property
    def _width(self) -> int:
        wanted = self.spec.model.precision
        if wanted == "auto":
            return _HALF if self.gpu else FP32
        return FP32 if wanted == "fp32" else _HALF

    @property
    def _vae_width(self) -> int:
        return FP32 if self.spec.model.precision == "fp16" else self._width

    @property
    def _side_px(self) -> int:
        return self.spec.data.resolution_px or self.outline.native_size_px

    def _tape(self, width: int | None = None) -> Tape:
        width = width or self._width
        return Tape(width, FP32 if self.gpu else width)

    def _step(self, adapted: Mapping[LayerKey, Adapted]) -> int:
        """One batch, forwards and backwards."""
        spec = self.spec
        batch = spec.schedule.batch_size
        net = Net(self._tape(), UNET, adapted, spec.model.gradient_checkpointing)
        parts = {key.part for key in adapted if key.part != UNET}
        context_width = int(self.outline.configs[UNET]["cross_attention_dim"])
        if parts:
            states = [
                clip.write(
                    Net(net.tape, part, adapted, net.checkpointing), config, batch
                )
                for part, config in self.outline.configs.items()
                if part not in (UNET, VAE)
            ]  # fmt: skip
            context = net.tape.op(states, batch * clip.TOKENS * context_width)
        else:
            context = net.tape.tensor(batch * clip.TOKENS * context_width)
        side = self._side_px // self.outline.latent_factor
        unet = Unet(net, self.outline.configs[UNET], context, clip.TOKENS)
        unet.write(batch, side, side)
        return net.tape.peak(backward=True)

    def _encoding(self) -> int:
        side, tape = self._side_px, self._tape(self._vae_width)
        grid = Grid(_at_once(side, _ENCODED_PX), side, side)
        vae.encode(Net(tape, VAE), self.outline.configs[VAE], grid)
        return tape.peak(backward=False)

    def _drawing(self, side_px: int, adapted: Mapping[LayerKey, Adapted], pictures: int) -> int:
        """The UNet with guidance, then the decoder."""
        config = self.outline.configs[UNET]
        side = side_px // self.outline.latent_factor
        batch = pictures * (2 if self.spec.preview.cfg > 1 else 1)
        tape = self._tape()
        context = tape.tensor(batch * clip.TOKENS * int(config["cross_attention_dim"]))
        Unet(Net(tape, UNET, adapted), config, context, clip.TOKENS).write(batch, side, side)
        decoding = self._tape(self._vae_width)
        grid = Grid(min(pictures, _at_once(side_px, _DECODED_PX)), side, side)
        vae.decode(Net(decoding, VAE), self.outline.configs[VAE], grid)
        return max(tape.peak(backward=False), decoding.peak(backward=False))

    def _weights(self, part: str) -> int:
        """Bytes of a model's weights."""
        config = self.outline.configs[part]
        if part == VAE:
            tape = Tape()
            vae.encode(Net(tape, VAE), config, Grid(1, 8, 8))
            return tape.weights * self._vae_width + self._decoder_weights()
        tape = Tape()
        if part == UNET:
            tokens = tape.tensor(1)
            Unet(Net(tape, UNET), config, tokens, 1).write(1, 8, 8)
        else:
            clip.write(Net(tape, part), config, 1)
        in_fp8 = part == UNET and self.spec.model.fp8_base
        return tape.weights * (_FP8 if in_fp8 else self._width)

    def _decoder_weights(self) -> int:
        tape = Tape()
        vae.decode(Net(tape, VAE), self.outline.configs[VAE], Grid(1, 1, 1))
        return tape.weights * self._vae_width

    def _targets(self) -> Iterator[tuple[LayerKey, Shape, int]]:
        """Each adapted layer, the shape of its weight, and its rank."""
        adapter, optim = self.spec.adapter, self.spec.optim
        shapes = of_configs(
            {part: config for part, config in self.outline.configs.items() if part != VAE}
        )
        sizes = targets.Sizes(
            adapter.rank, adapter.alpha, adapter.conv_rank, adapter.conv_alpha, adapter.ranks
        )
        second = optim.lr_text if optim.lr_text_2 is None else optim.lr_text_2
        rates = {UNET: optim.lr_unet, "text_encoder": optim.lr_text, "text_encoder_2": second}
        for part in {key.part: None for key in shapes}:
            named = adapter.targets if part == UNET else adapter.text_targets
            if rates[part] > 0:
                for key in targets.select(named, part, shapes):
                    yield key, shapes[key], sizes.of(key, shapes[key])[0]

    def _adapter_tensors(self) -> Iterator[tuple[LayerKey, list[int]]]:
        for key, shape, rank in self._targets():
            yield key, tensor_sizes(self.spec, shape, rank)

    def _adapted(self) -> Iterator[tuple[LayerKey, Adapted]]:
        for key, shape, rank in self._targets():
            numel = sum(tensor_sizes(self.spec, shape, rank))
            yield key, Adapted(self.spec.adapter.kind, rank, numel)

    def _adapter_bytes(self, tensors: list[int]) -> int:
        """The numbers of one layer's adapter, their average and the optimizer's state."""
        optim = self.spec.optim
        held = FP32 * (2 if optim.ema_decay else 1)
        total = 0
        for numel in tensors:
            state = _STATE_BYTES[optim.kind]
            if optim.kind == "adamw8bit" and numel < _8BIT_FROM:
                state = _STATE_BYTES["adamw"]
            total += numel * (held + state)
        return total


def tensor_sizes(spec: JobSpec, shape: Shape, rank: int) -> list[int]:
    """How many numbers each tensor of one layer's adapter has.

    Args:
        shape: of the base's weight, `[out, in, *kernel]`.
    """
    kind, outputs, inputs = spec.adapter.kind, shape[0], prod(shape[1:])
    if kind == "lokr":
        return [prod(s) for s in lokr_shapes(shape, rank, spec.adapter.lokr_factor).values()]
    factors = [rank * inputs, outputs * rank]
    if kind == "loha":
        return factors * 2
    if kind == "dora":
        return [*factors, shape[1] if spec.adapter.dora_axis == "in" else outputs]
    return factors


def _at_once(side_px: int, most_px: int) -> int:
    return max(1, min(_AT_ONCE, most_px // side_px**2))


def size(count: int) -> str:
    """Bytes for people: "7.4 GB", "43 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def has_gpu(device: str) -> bool:
    """Whether a run with this `model.device` will be on a GPU, as far as can be told here."""
    if device == "auto":
        return shutil.which("nvidia-smi") is not None
    return not device.startswith("cpu")
