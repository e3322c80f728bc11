"""Pictures from a base and whatever adapters are on it.

Classifier-free guidance (Ho & Salimans, arXiv:2207.12598): e = e_uncond + s (e_cond - e_uncond).
Each picture's noise comes from its own seed, drawn on the CPU, so a picture does not depend on
the device or on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lora_diffusion.errors import InputError
from lora_diffusion.families.base import Conditioning, DiffusionBase, PictureSize
from lora_diffusion.families.schedulers import make_sampler
from lora_diffusion.files import replace_atomically

StepCallback = Callable[[int, int], None]
BATCH_SIZE = 4
_DECODED_PX = 512 * 512  # of pictures in one pass of the decoder, which needs most memory of all


@dataclass(frozen=True)
class PictureSpec:
    """One picture to draw.

    Attributes:
        prompt, negative: what to draw and what not.
        seed: of the starting noise.
        sampling_steps: denoising steps.
        cfg: guidance scale; 1 or less draws without guidance.
        width_px, height_px: multiples of 8.
        sampler: a name that `families.schedulers.make_sampler` knows.
    """

    prompt: str
    negative: str = ""
    seed: int = 0
    sampling_steps: int = 25
    cfg: float = 7.0
    width_px: int = 512
    height_px: int = 512
    sampler: str = "ddim"

    def parameters(self) -> str:
        """The line that A1111 writes into a PNG's `parameters` field."""
        negative = f"\nNegative prompt: {self.negative}" if self.negative else ""
        return (
            f"{self.prompt}{negative}\nSteps: {self.sampling_steps}, Sampler: {self.sampler}, "
            f"CFG scale: {self.cfg:g}, Seed: {self.seed}, Size: {self.width_px}x{self.height_px}"
        )


@dataclass(frozen=True, eq=False)
class EncodedPrompts:
    """Conditioning of prompts and of their negatives, row by row of equal token counts.

    Attributes:
        positive, negative: of the pictures.
        regions: by name of a region, what counts there instead.
        later: what takes over from a share of the steps (0..1) on, ascending.
    """

    positive: Conditioning
    negative: Conditioning
    regions: Mapping[str, EncodedPrompts] = field(default_factory=dict)
    later: Sequence[tuple[float, EncodedPrompts]] = ()

    def __getitem__(self, rows: slice) -> EncodedPrompts:
        return EncodedPrompts(
            self.positive[rows],
            self.negative[rows],
            {name: prompts[rows] for name, prompts in self.regions.items()},
            [(share, prompts[rows]) for share, prompts in self.later],
        )

    def at(self, done: float) -> EncodedPrompts:
        """What counts once the share `done` of the steps is done."""
        begun = [prompts for share, prompts in self.later if share <= done + 1e-9]
        return begun[-1] if begun else self

    def conditioning(self, guided: bool) -> Conditioning:
        """What the UNet is given: under guidance the negatives' rows before the pictures'."""
        return Conditioning.cat([self.negative, self.positive]) if guided else self.positive


class Conductor(Protocol):
    """What steers adapters while pictures are drawn: `composition.live.Composition` is one."""

    def encode(self, pictures: Sequence[PictureSpec]) -> EncodedPrompts:
        """The prompts, as the adapters make them read."""

    def direct(
        self, done: float, latent_size: tuple[int, int], regions: Mapping[str, Conditioning]
    ) -> None:
        """Called before every step.

        Args:
            done: share of the steps done, 0..1.
            latent_size: height and width of the latents.
            regions: by name of a region, what the UNet is given there.
        """

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The prediction of the step, as `DiffusionBase.predict`."""


@torch.no_grad()
def encode(base: DiffusionBase, pictures: Sequence[PictureSpec]) -> EncodedPrompts:
    """The prompts of `pictures`, so that the text encoder can be freed before drawing."""
    texts = [p.prompt for p in pictures] + [p.negative for p in pictures]
    both = base.encode_prompts(texts, chunks=max(base.prompt_chunks(text) for text in texts))
    return EncodedPrompts(both[: len(pictures)], both[len(pictures) :])


@torch.no_grad()
def draw(
    base: DiffusionBase,
    pictures: Sequence[PictureSpec],
    *,
    encoded: EncodedPrompts | None = None,
    conductor: Conductor | None = None,
    on_step: StepCallback | None = None,
    at_once: int = BATCH_SIZE,
) -> list[Image.Image]:
    """Draw `pictures`, in order.

    Args:
        encoded: their prompts, if encoded before.
        conductor: steers the adapters that are on the base; None leaves them as they are.
        at_once: most pictures in one batch; fewer take less memory.
        on_step: called with (denoising steps done, of all).

    Raises:
        InputError: a size that the base can't draw, or a picture that is not finite.
    """
    for picture in pictures:
        _check_size(base, picture)
    if encoded is None:
        encoded = conductor.encode(pictures) if conductor else encode(base, pictures)
    total = sum(p.sampling_steps for p in pictures)
    done = 0
    images: list[Image.Image] = []
    while len(images) < len(pictures):
        first = len(images)
        size = batch_size(pictures[first:], at_once)
        batch = pictures[first : first + size]

        def report(step: int, before: int = done, rows: int = size) -> None:
            if on_step is not None:
                on_step(before + rows * step, total)

        latents = _sample(base, batch, encoded[first : first + size], conductor, report)
        at_a_time = max(1, _DECODED_PX // (batch[0].width_px * batch[0].height_px))
        for rows in torch.split(latents, at_a_time):
            images += to_images(base.decode_latents(rows))
        done += size * batch[0].sampling_steps
    return images


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Pictures `[b, 3, h, w]` in [-1, 1] as 8-bit RGB.

    Raises:
        InputError: not finite, which stored as a picture would be black.
    """
    if not torch.isfinite(pixels).all():
        raise InputError(
            "The picture has values that are not finite: the VAE or the UNet overflowed. Load the "
            "base in fp32 or bf16, or lower the adapter's weight."
        )
    bytes_ = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8)
    arrays: list[np.ndarray] = [row.numpy() for row in bytes_.permute(0, 2, 3, 1).contiguous()]
    return [Image.fromarray(array) for array in arrays]


def save_png(image: Image.Image, path: Path, parameters: str) -> None:
    """A PNG with its parameters inside, written atomically."""
    info = PngInfo()
    info.add_itxt("parameters", parameters)
    replace_atomically(path, lambda beside: image.save(beside, "PNG", pnginfo=info))


def _sample(
    base: DiffusionBase,
    batch: Sequence[PictureSpec],
    encoded: EncodedPrompts,
    conductor: Conductor | None,
    report: Callable[[int], None],
) -> Tensor:
    """Latents `[b, c, h, w]` in the UNet's space; `batch` shares size, sampler, steps and CFG."""
    first = batch[0]
    sampler = make_sampler(first.sampler, base.scheduler_config, base.prediction)
    sampler.set_timesteps(first.sampling_steps)
    shape = (
        base.latent_channels,
        first.height_px // base.latent_factor,
        first.width_px // base.latent_factor,
    )
    sources = [torch.Generator("cpu").manual_seed(p.seed) for p in batch]
    noise = torch.stack([torch.randn(shape, generator=source) for source in sources])
    latents: Tensor = (noise * sampler.init_noise_sigma).to(base.device)
    guided = first.cfg > 1
    size = PictureSize.whole(first.height_px, first.width_px)

    def given(prompts: EncodedPrompts) -> Conditioning:
        conditioning = prompts.conditioning(guided).to(base.device)
        return base.with_sizes(conditioning, [size] * len(conditioning.context))

    read: EncodedPrompts | None = None
    for index, time in enumerate(sampler.timesteps):
        done = index / len(sampler.timesteps)
        if encoded.at(done) is not read:
            read = encoded.at(done)
            conditioning = given(read)
            regions = {name: given(prompts) for name, prompts in read.regions.items()}
        if conductor is not None:
            conductor.direct(done, (shape[1], shape[2]), regions)
        scaled = sampler.scale_model_input(latents, time)
        model_input = torch.cat([scaled, scaled]) if guided else scaled
        times = time.to(base.device).expand(len(model_input))
        predict = base.predict if conductor is None else conductor.predict
        output = predict(model_input, times, conditioning).float()
        if guided:
            uncond, cond = output.chunk(2)
            output = uncond + first.cfg * (cond - uncond)
        latents = _step(sampler, output, time, latents, sources)
        report(index + 1)
    return latents


def _step(
    sampler: Any, output: Tensor, time: Tensor, latents: Tensor, sources: list[torch.Generator]
) -> Tensor:
    stepped: Tensor = sampler.step(output, time, latents, generator=sources, return_dict=False)[0]
    return stepped


def batch_size(pictures: Sequence[PictureSpec], at_once: int) -> int:
    """How many of the first pictures can be drawn in one batch, at most `at_once`."""

    def shared(picture: PictureSpec) -> tuple[object, ...]:
        return (
            picture.width_px,
            picture.height_px,
            picture.sampler,
            picture.sampling_steps,
            picture.cfg,
        )

    count = 1
    while count < min(len(pictures), at_once) and shared(pictures[count]) == shared(pictures[0]):
        count += 1
    return count


def _check_size(base: DiffusionBase, picture: PictureSpec) -> None:
    multiple = max(8, base.latent_factor)
    for side in (picture.width_px, picture.height_px):
        if side <= 0 or side % multiple:
            raise InputError(
                f"Size {side} px: each side must be a positive multiple of {multiple}."
            )
