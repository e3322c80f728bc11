"""The demo UNet: an SD1.x UNet2DConditionModel in miniature, trained from nothing.

It learns on latents of the frozen encoder and on captions read by the frozen text encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor, nn

from .scenes import PICTURE_PX, caption_of, paint_scene, paint_styled, random_scene
from .text import HIDDEN, load_text_encoder, tokens_of
from .traits import varied_scene
from .vae import LATENT_CHANNELS, to_unit
from .words import make_tokenizer
from .workers import Report, Trainee, flat_then_linear, run_workers, step_generator

# Half the usual spread: a 32 x 32 grid at spread 1 would leak the mean colour through the
# noisiest step, and samples would then inherit the colour of their starting noise.
LATENT_STD = 0.5
DC_NOISE = 0.05  # extra noise in the mean of each channel, against the same leak
CAPTION_DROP = 0.1
EMA_DECAY = 0.997
LR = 1.5e-3

Draw = Callable[[np.random.Generator], tuple[Image.Image, str]]  # a picture and its caption


@dataclass(frozen=True)
class Leg:
    """A stretch of the training: its rate is flat at first, then falls linearly to 0.

    `lr_share` is the flat rate as a share of LR; `noisy_floor` is `loss_weight`'s; `other_share`
    of each batch are not the plain scenes. Every `pair_every`th batch, half as large, shows
    pictures twice as wide, on which a figure stands twice.
    """

    steps: int
    batch: int
    lr_share: float
    flat_share: float
    noisy_floor: float
    other_share: float = 0.0
    pair_every: int = 0


@dataclass(frozen=True)
class UnetSteps:
    """The legs of the training, in order, and its pictures.

    The third leg weighs the noisiest steps less: they decide colour and place, which were right
    by then, and drown the middle ones, which decide the outline. The last one shows scenes with
    lines and paled grounds. `WIDER` then teaches words for these and for every part of a creature,
    so that the base, like a big one, has the means of a style or a character before an adapter
    asks for one.
    """

    legs: tuple[Leg, ...] = (
        Leg(steps=3600, batch=24, lr_share=1.0, flat_share=0.4, noisy_floor=0.05),
        Leg(steps=1100, batch=16, lr_share=0.4, flat_share=0.0, noisy_floor=0.05),
        Leg(steps=2800, batch=16, lr_share=0.6, flat_share=0.5, noisy_floor=0.15),
        Leg(
            steps=1300,
            batch=16,
            lr_share=0.6,
            flat_share=0.4,
            noisy_floor=0.1,
            other_share=0.3,
        ),
    )
    scenes: int = 24_000
    other_scenes: int = 5_120
    pairs: int = 0
    seed: int = 31
    varied: bool = False  # what the other scenes are: of every trait, or in a style alone

    def ending_at(self, total: int) -> UnetSteps:
        """The same training with a last leg that ends after `total` steps of all legs."""
        before = sum(leg.steps for leg in self.legs[:-1])
        if total <= before:
            raise ValueError(f"the UNet's training must be longer than {before} steps")
        return replace(self, legs=(*self.legs[:-1], replace(self.legs[-1], steps=total - before)))


WIDER = UnetSteps(
    legs=(
        Leg(
            steps=10_000,
            batch=16,
            lr_share=0.7,
            flat_share=0.5,
            noisy_floor=0.1,
            other_share=0.7,
            pair_every=8,
        ),
    ),
    scenes=6_400,
    other_scenes=10_240,
    pairs=2_560,
    seed=32,
    varied=True,
)


def make_scheduler() -> DDIMScheduler:
    """SD1.x's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


def make_unet() -> UNet2DConditionModel:
    """The untrained UNet; every residual branch starts at zero."""
    unet = UNet2DConditionModel(
        sample_size=PICTURE_PX // 2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=(
            "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D",
        ),
        up_block_types=(
            "UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D",
        ),
        block_out_channels=(32, 64, 96, 112),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 2, 1),  # more for adapters to hold on to, at 8 x 8
        attention_head_dim=4,  # diffusers' name for the number of heads
        cross_attention_dim=HIDDEN,
        norm_num_groups=4,
    )  # fmt: skip
    for name, module in unet.named_modules():
        if name.endswith((".conv2", ".to_out.0", ".proj_out", "ff.net.2")) or name == "conv_out":
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return unet


def loss_weight(alphas_cumprod: Tensor, t: Tensor, noisy_floor: float) -> Tensor:
    """Weight [b] of the squared noise error at timesteps t [b].

    Nearly the error of the predicted picture, so that the noisy steps, where the shape is
    decided, count; a larger `noisy_floor` takes weight off the noisiest ones. The constant keeps
    the last steps, which remove the grain.
    """
    snr = alphas_cumprod[t] / (1 - alphas_cumprod[t]) * LATENT_STD**2
    return 1 / (snr + noisy_floor) + 0.25


def cache_latents(
    path: Path, vae: AutoencoderKL, steps: UnetSteps, scaling_factor: float | None = None
) -> None:
    """Draw the training scenes, encode them, save latents (bf16) and captions at `path`.

    The other scenes come after the `plain` plain ones. Without a scaling factor, it is computed.
    """
    other = _varied if steps.varied else _styled
    rng = np.random.default_rng(steps.seed)
    plain, plain_captions = _encoded(rng, vae, _plain, steps.scenes)
    others, other_captions = _encoded(rng, vae, other, steps.other_scenes)
    pairs, pair_captions = _encoded(rng, vae, _pair, steps.pairs)
    if scaling_factor is None:
        scaling_factor = LATENT_STD / float(plain.float().std())
    torch.save(
        {
            "latents": torch.cat([plain, others]),
            "captions": plain_captions + other_captions,
            "plain": steps.scenes,
            "pairs": pairs,
            "pair_captions": pair_captions,
            "scaling_factor": scaling_factor,
        },
        path,
    )


def _encoded(
    rng: np.random.Generator, vae: AutoencoderKL, draw: Draw, count: int
) -> tuple[Tensor, list[str]]:
    """Latents (bf16) and captions of `count` drawn pictures."""
    latents, captions = [torch.empty(0, dtype=torch.bfloat16)], []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(0, count, 64):
            drawn = [draw(rng) for _ in range(64)]
            pictures = np.stack([np.asarray(picture) for picture, _ in drawn])
            batch = to_unit(torch.from_numpy(pictures).permute(0, 3, 1, 2))
            latents.append(vae.encode(batch).latent_dist.mean.bfloat16())
            captions += [caption for _, caption in drawn]
    return torch.cat(latents[1:] or latents), captions


def _plain(rng: np.random.Generator) -> tuple[Image.Image, str]:
    scene = random_scene(rng)
    return paint_scene(scene, rng), caption_of(scene, rng)


def _styled(rng: np.random.Generator) -> tuple[Image.Image, str]:
    scene = random_scene(rng)
    picture, words = paint_styled(scene, rng)
    return picture, f"{words}, {caption_of(scene, rng)}"


def _varied(rng: np.random.Generator) -> tuple[Image.Image, str]:
    scene = varied_scene(rng)
    return scene.picture, scene.caption


def _pair(rng: np.random.Generator) -> tuple[Image.Image, str]:
    scene = varied_scene(rng, pictures=2)
    return scene.picture, scene.caption


def train_unet(
    path: Path,
    latents: Path,
    text: Path,
    steps: UnetSteps,
    processes: int,
    begin_at: Path | None = None,
) -> None:
    """Train the UNet, leaving its state at `path`; starts again where it was stopped.

    A new training begins at the averaged weights of `begin_at`, if there is one.
    """
    run_workers(_worker, processes, path, latents, text, steps, begin_at)


def load_unet(path: Path) -> UNet2DConditionModel:
    """The averaged UNet."""
    unet = make_unet()
    unet.load_state_dict(torch.load(path, weights_only=True)["average"])
    return unet.eval().requires_grad_(False)


def _worker(
    rank: int,
    count: int,
    path: Path,
    latents_path: Path,
    text_path: Path,
    steps: UnetSteps,
    begin_at: Path | None,
) -> None:
    torch.manual_seed(steps.seed)
    tokenizer = make_tokenizer()
    encoder = load_text_encoder(text_path, tokenizer)
    data = torch.load(latents_path, weights_only=True, mmap=True)
    latents, scaling, plain = data["latents"], data["scaling_factor"], data["plain"]
    empty, ids = tokens_of(tokenizer, [""])[0], tokens_of(tokenizer, data["captions"])
    pairs = data["pairs"]
    pair_ids = tokens_of(tokenizer, data["pair_captions"]) if len(pairs) else ids[:0]
    alphas_cumprod = make_scheduler().alphas_cumprod

    unet = make_unet()
    if begin_at is not None:
        unet.load_state_dict(torch.load(begin_at, weights_only=True)["average"])
    unet = unet.to(memory_format=torch.channels_last)
    # Plain matrix products: the fused CPU attention is slower in the backward pass here.
    unet.set_attn_processor(AttnProcessor())
    trainee = Trainee(unet, path, rank, LR, EMA_DECAY)
    start, report = trainee.resume(), Report("unet", rank)
    for step, leg, leg_step in _plan(steps.legs, start):
        g, size = step_generator(steps.seed, step, rank), leg.batch // count
        if leg.pair_every and step % leg.pair_every == 0:
            size //= 2
            chosen = torch.randint(len(pairs), (size,), generator=g)
            clean, prompt = pairs[chosen].float() * scaling, pair_ids[chosen]
        else:
            others = round(size * leg.other_share)
            chosen = torch.randint(plain, (size,), generator=g)
            if others:
                chosen[:others] = torch.randint(plain, len(latents), (others,), generator=g)
            clean, prompt = latents[chosen].float() * scaling, ids[chosen]
        drop = torch.rand(size, generator=g) < CAPTION_DROP
        prompt = torch.where(drop[:, None], empty, prompt)
        # Stratified timesteps: each batch covers the whole schedule evenly.
        places = torch.randperm(size, generator=g)
        t = ((places + torch.rand(size, generator=g)) * (1000 / size)).long()
        noise = torch.randn(clean.shape, generator=g)
        noise = noise + DC_NOISE * torch.randn(*clean.shape[:2], 1, 1, generator=g)
        a = alphas_cumprod[t].view(-1, 1, 1, 1)
        noisy = (a.sqrt() * clean + (1 - a).sqrt() * noise).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                hidden = encoder(prompt).last_hidden_state
            predicted = unet(noisy, t, hidden).sample.float()
        error = F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
        loss = (error * loss_weight(alphas_cumprod, t, leg.noisy_floor)).mean()
        rate = leg.lr_share * flat_then_linear(leg_step, leg.steps, leg.flat_share)
        trainee.update(loss, rate, count)
        report.add(step, loss=loss, eps_mse=error.mean())
        trainee.save(last=leg_step + 1 == leg.steps)


def _plan(legs: tuple[Leg, ...], start: int) -> Iterator[tuple[int, Leg, int]]:
    """(step of all, its leg, step of that leg) for every step from `start` on."""
    first = 0
    for leg in legs:
        for step in range(max(start, first), first + leg.steps):
            yield step, leg, step - first
        first += leg.steps


def scaling_factor_of(latents_path: Path) -> float:
    """The VAE scaling factor that the UNet was trained with."""
    factor: float = torch.load(latents_path, weights_only=True, mmap=True)["scaling_factor"]
    return factor
