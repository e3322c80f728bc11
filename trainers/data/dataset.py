"""The pictures of a run as cached latents: decoded, cropped and encoded once, before step 0."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lora_diffusion.errors import InputError
from lora_diffusion.families.base import DiffusionBase, LatentDistribution, PictureSize
from trainers.data.decode import load_rgb
from trainers.data.images import fit_square, to_pixels
from trainers.data.scan import Picture

_ENCODE_BATCH = 4
_MAX_NAMED = 8


@dataclass(frozen=True, eq=False)
class Dataset:
    """Encoded pictures.

    Attributes:
        instances, classes: the pictures.
        latents: what the VAE says of each, instances first; rows `[1, c, h/f, w/f]`, fp32, CPU.
        sizes: of each before cropping, likewise.
        fingerprint: changes when a picture's bytes or caption do.
    """

    instances: tuple[Picture, ...]
    classes: tuple[Picture, ...]
    latents: tuple[LatentDistribution, ...]
    sizes: tuple[PictureSize, ...]
    fingerprint: str

    def picture(self, is_class: bool, index: int) -> Picture:
        return (self.classes if is_class else self.instances)[index]

    def latent(self, is_class: bool, index: int) -> LatentDistribution:
        return self.latents[self._place(is_class, index)]

    def size(self, is_class: bool, index: int) -> PictureSize:
        return self.sizes[self._place(is_class, index)]

    def _place(self, is_class: bool, index: int) -> int:
        return index + (len(self.instances) if is_class else 0)

    @property
    def captions(self) -> list[str]:
        return sorted({c for p in (*self.instances, *self.classes) for c in p.captions})


def encode_dataset(
    base: DiffusionBase,
    instances: Sequence[Picture],
    classes: Sequence[Picture],
    resolution_px: int,
    on_progress: Callable[[int, int], None],
) -> Dataset:
    """Decode and encode every picture.

    Raises:
        InputError: names every picture that can't be decoded or encoded, at once.
    """
    pictures = [*instances, *classes]
    latents: list[LatentDistribution] = []
    sizes: list[PictureSize] = []
    problems: list[str] = []
    for first in range(0, len(pictures), _ENCODE_BATCH):
        rows = []
        for picture in pictures[first : first + _ENCODE_BATCH]:
            try:
                image = load_rgb(picture.path)
                sizes.append(square_size(image.height, image.width, resolution_px))
                rows.append(to_pixels(fit_square(image, resolution_px)))
            except InputError as error:
                problems.append(str(error))
        if not problems:
            latents += _encode(base, torch.stack(rows), pictures[first:])
        on_progress(min(first + _ENCODE_BATCH, len(pictures)), len(pictures))
    if problems:
        more = len(problems) - _MAX_NAMED
        raise InputError(
            "\n".join(problems[:_MAX_NAMED]) + (f"\n… and {more} more." if more > 0 else "")
        )
    return Dataset(
        tuple(instances),
        tuple(classes),
        tuple(latents),
        tuple(sizes),
        fingerprint(pictures, resolution_px),
    )


def square_size(height_px: int, width_px: int, side_px: int) -> PictureSize:
    """What `fit_square` does to a picture of that size (upright), in the numbers of SDXL."""
    scale = side_px / min(height_px, width_px)
    top, left = (round((side * scale - side_px) / 2) for side in (height_px, width_px))
    return PictureSize((height_px, width_px), (side_px, side_px), (top, left))


def fingerprint(pictures: Sequence[Picture], resolution_px: int) -> str:
    """A hash of every picture's bytes, caption and kind, and of the preprocessing."""
    total = hashlib.sha256(f"square {resolution_px}".encode())
    for picture in pictures:
        content = hashlib.sha256(picture.path.read_bytes()).hexdigest()
        total.update(
            f"\x1e{picture.path.name}\x1f{content}\x1f{chr(31).join(picture.captions)}"
            f"\x1f{picture.is_class}".encode()
        )
    return total.hexdigest()


def _encode(
    base: DiffusionBase, pixels: torch.Tensor, pictures: Sequence[Picture]
) -> list[LatentDistribution]:
    moments = base.encode_pictures(pixels)
    rows = []
    for index in range(len(pixels)):
        row = slice(index, index + 1)
        mean, logvar = moments.mean[row].cpu(), moments.logvar[row].cpu()
        if not (torch.isfinite(mean).all() and torch.isfinite(logvar).all()):
            raise InputError(
                f"{pictures[index].path}: the VAE gives values that are not finite. Run the base "
                "in fp32 (--model.precision fp32) or use another VAE."
            )
        rows.append(LatentDistribution(mean, logvar))
    return rows
