"""How much a folded file's pictures differ from those of the adapters that went into it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lora_diffusion.composition.live import compose
from lora_diffusion.composition.sources import Source
from lora_diffusion.composition.weights import AnyWeights
from lora_diffusion.errors import printable
from lora_diffusion.families.base import DiffusionBase
from lora_diffusion.generate import PictureSpec, draw


@dataclass(frozen=True)
class PictureDifference:
    """Two pictures of one prompt and seed, compared pixel by pixel, in levels of 0..255.

    Attributes:
        mean: mean absolute difference of the file's picture and the adapters'.
        largest: of any pixel.
        adapters: mean absolute difference of the adapters' picture and the base's own: what the
            file has to bring.
    """

    prompt: str
    seed: int
    mean: float
    largest: int
    adapters: float

    def as_json(self) -> dict[str, object]:
        return {
            "prompt": printable(self.prompt, 10_000),
            "seed": self.seed,
            "mean": self.mean,
            "largest": self.largest,
            "adapters": self.adapters,
        }

    def __str__(self) -> str:
        return (
            f"seed {self.seed}, '{printable(self.prompt, 60)}': differs by {self.mean:.2f} of 255 "
            f"on average, {self.largest} at most; the adapters change {self.adapters:.2f}"
        )


def picture_differences(
    base: DiffusionBase,
    adapters: Iterable[tuple[Source, AnyWeights]],
    folded: Source,
    prompts: Sequence[str],
    seeds: Iterable[int],
    *,
    sampling_steps: int = 15,
) -> list[PictureDifference]:
    """Draw each prompt and seed live, with the folded file, and without either.

    Raises:
        InputError: adapters that don't fit the base.
    """
    side = base.native_size_px
    pictures = [
        PictureSpec(prompt, seed=seed, sampling_steps=sampling_steps, width_px=side, height_px=side)
        for seed in seeds
        for prompt in prompts
    ]
    plain = draw(base, pictures)
    with compose(base, adapters) as composition:
        live = composition.draw(pictures)
    with compose(base, [(folded, 1.0)]) as composition:
        file = composition.draw(pictures)
    return [
        PictureDifference(
            picture.prompt,
            picture.seed,
            float(_levels(one, two).mean()),
            int(_levels(one, two).max()),
            float(_levels(none, one).mean()),
        )
        for picture, one, two, none in zip(pictures, live, file, plain, strict=True)
    ]


def _levels(one: Image.Image, two: Image.Image) -> np.ndarray:
    """Absolute differences of the pixels, `[h, w, 3]`."""
    levels: np.ndarray = np.abs(np.asarray(one, dtype=int) - np.asarray(two, dtype=int))
    return levels
