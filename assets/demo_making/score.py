"""Measures the demo base: does it draw what the prompt says, and what does its VAE keep?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image

from .clutter import random_clutter
from .figures import PALETTE, SHAPES
from .reader import read_picture
from .scenes import (
    PICTURE_PX,
    RADIUS,
    character_set,
    make_scene,
    paint_scene,
    plain_caption,
    random_scene,
    style_set,
)
from .vae import to_unit

SAMPLE_STEPS, GUIDANCE = 20, 2.0
BATCH = 20
VAE_PICTURES = 32


@dataclass(frozen=True)
class Adherence:
    """Shares of prompts obeyed, and the mean overlap with the asked shape."""

    shape: float
    colour: float
    background: float
    all_right: float
    overlap: float

    def __str__(self) -> str:
        return (
            f"shape {self.shape:.0%}, colour {self.colour:.0%}, background "
            f"{self.background:.0%}, all right {self.all_right:.0%}, IoU {self.overlap:.2f}"
        )


def prompt_list(count: int, seed: int) -> list[tuple[str, str, str]]:
    """(shape, colour, background) of every prompt; shapes take turns."""
    rng = np.random.default_rng(seed)
    prompts = []
    for index in range(count):
        colour, background = rng.permutation(list(PALETTE))[:2]
        prompts.append((list(SHAPES)[index % len(SHAPES)], str(colour), str(background)))
    return prompts


def draw_samples(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], seed: int
) -> list[Image.Image]:
    """One picture per prompt: DDIM, SAMPLE_STEPS steps, guidance GUIDANCE."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), BATCH):
        generator = torch.Generator().manual_seed(seed + start)
        batch = list(prompts[start : start + BATCH])
        out = pipeline(
            batch, num_inference_steps=SAMPLE_STEPS, guidance_scale=GUIDANCE, generator=generator
        )
        pictures += out.images
    return pictures


def adherence(
    prompts: Sequence[tuple[str, str, str]], pictures: Sequence[Image.Image]
) -> Adherence:
    """Score pictures against what their prompts asked."""
    rows: list[tuple[float, ...]] = []
    for (shape, colour, background), picture in zip(prompts, pictures, strict=True):
        reading = read_picture(picture)
        if reading is None:
            rows.append((0.0, 0.0, 0.0, 0.0, 0.0))
            continue
        right = (
            reading.shape == shape,
            reading.colour == colour,
            reading.background == background,
        )
        rows.append((*map(float, right), float(all(right)), reading.overlaps[shape]))
    return Adherence(*np.mean(rows, axis=0).tolist())


def reader_check(count: int, seed: int) -> Adherence:
    """The same score on drawn scenes, where all is right: how far the reader can be trusted."""
    rng = np.random.default_rng(seed)
    prompts = prompt_list(count, seed)
    sizes = rng.choice(list(RADIUS), size=count)
    scenes = [make_scene(rng, *p, str(s)) for p, s in zip(prompts, sizes, strict=True)]
    return adherence(prompts, [paint_scene(scene, rng) for scene in scenes])


def base_adherence(
    pipeline: StableDiffusionPipeline, count: int, seed: int
) -> tuple[Adherence, list[Image.Image]]:
    """The base's adherence on `count` prompts, and the pictures."""
    prompts = prompt_list(count, seed)
    pictures = draw_samples(pipeline, [plain_caption(*prompt) for prompt in prompts], seed)
    return adherence(prompts, pictures), pictures


def vae_psnr(vae: AutoencoderKL, seed: int) -> dict[str, tuple[float, float]]:
    """Mean and minimum PSNR in dB of reconstructions, for each kind of picture."""
    rng = np.random.default_rng(seed)
    kinds = {
        "scenes": [paint_scene(random_scene(rng), rng) for _ in range(VAE_PICTURES)],
        "character": [p for p, _ in character_set(seed, PICTURE_PX, VAE_PICTURES)],
        "ink style": [p for p, _ in style_set(seed, PICTURE_PX, VAE_PICTURES)],
        "clutter": [random_clutter(rng) for _ in range(VAE_PICTURES)],
    }
    table = {}
    for kind, pictures in kinds.items():
        pixels = torch.from_numpy(np.stack([np.asarray(p) for p in pictures]))
        clean = to_unit(pixels.permute(0, 3, 1, 2))
        with torch.no_grad():
            out = vae.decode(vae.encode(clean).latent_dist.mean).sample.clamp(-1, 1)
        decibel = 10 * torch.log10(4 / (out - clean).square().mean((1, 2, 3)))
        table[kind] = (float(decibel.mean()), float(decibel.min()))
    return table


def save_sheet(pictures: Sequence[Image.Image], path: Path, columns: int = 8) -> None:
    """A contact sheet of equally large pictures with a thin grey grid; 256 colours are enough."""
    (width, height), gap = pictures[0].size, 2
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap), rows * (height + gap)), (150, 150, 150))
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * (width + gap), row * (height + gap)))
    flat = sheet.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    flat.save(path, optimize=True)
