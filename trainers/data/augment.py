"""One look at a picture: which part of it, mirrored or not, in which colours; and its pixels.

What a look is follows from (seed, picture, number of the look) alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from lora_diffusion.families.base import PictureSize
from lora_diffusion.randomness import uniform
from trainers.data.buckets import Box, Fit, Size

_PLAIN = 1.0


@dataclass(frozen=True)
class AugmentRules:
    """What may be done to a picture.

    Attributes:
        random_crop: whether the crop lies anywhere, not in the middle.
        flip: chance that it is mirrored.
        colour_jitter: brightness, contrast and saturation each change by a factor within
            [1 - colour_jitter, 1 + colour_jitter].
    """

    random_crop: bool = False
    flip: float = 0.0
    colour_jitter: float = 0.0

    @property
    def mirrors(self) -> tuple[bool, ...]:
        """Which looks there are in this respect: as it is, mirrored, or both."""
        return tuple(mirror for mirror in (False, True) if self.flip != float(not mirror))

    @property
    def is_endless(self) -> bool:
        """Whether there are more looks than can be kept: mirroring alone makes two."""
        return self.random_crop or self.colour_jitter > 0


@dataclass(frozen=True)
class Look:
    """One look at a picture.

    Attributes:
        box: what is kept, in the upright picture's px.
        target_px: (height, width) that it is scaled to.
        flipped: mirrored left to right.
        brightness, contrast, saturation: factors; 1 changes nothing.
    """

    box: Box
    target_px: Size
    flipped: bool = False
    brightness: float = _PLAIN
    contrast: float = _PLAIN
    saturation: float = _PLAIN


def look(fit: Fit, rules: AugmentRules, seed: int, picture: str, number: int, mirror: bool) -> Look:
    """Look number `number` at a picture.

    Args:
        picture: what tells it from others; its content, so that other pictures do not matter.
        mirror: whether this look is mirrored, see `is_mirrored`.
    """

    def draw(what: str) -> float:
        return uniform(what, seed, picture, number)

    across, down = (draw("across"), draw("down")) if rules.random_crop else (0.5, 0.5)
    box, size = fit.box(across, down), fit.target_px
    if not rules.colour_jitter:
        return Look(box, size, mirror)
    factors = [
        1 + rules.colour_jitter * (2 * draw(what) - 1)
        for what in ("brightness", "contrast", "saturation")
    ]
    return Look(box, size, mirror, *factors)


def is_mirrored(rules: AugmentRules, seed: int, place: int) -> bool:
    """Whether the visit at `place` sees its picture mirrored."""
    return rules.flip > 0 and uniform("flip", seed, place) < rules.flip


def apply(picture: Image.Image, look: Look) -> Image.Image:
    """What `look` shows of an upright RGB picture."""
    height, width = look.target_px
    seen = picture.resize((width, height), Image.Resampling.LANCZOS, box=look.box)
    if look.flipped:
        seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change, factor in (
        (ImageEnhance.Brightness, look.brightness),
        (ImageEnhance.Contrast, look.contrast),
        (ImageEnhance.Color, look.saturation),
    ):
        if factor != _PLAIN:
            seen = change(seen).enhance(factor)
    return seen


def to_pixels(picture: Image.Image) -> Tensor:
    """RGB picture -> fp32 `[3, h, w]` in [-1, 1]."""
    array = np.asarray(picture, dtype=np.float32) / 127.5 - 1.0
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def told_size(fit: Fit, look: Look) -> PictureSize:
    """What SDXL is told of it (arXiv:2307.01952, section 2.2).

    The crop is counted in the scaled picture, from the corner that is top left as the model sees
    it: of a mirrored picture, its right.
    """
    left, top, right, _ = look.box
    if look.flipped:
        left = fit.source_px[1] - right
    crop = (round(top * fit.scale), round(left * fit.scale))
    return PictureSize(fit.source_px, fit.target_px, crop)
