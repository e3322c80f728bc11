"""Reads a picture without knowing its prompt.

Every pixel takes its nearest palette colour, the border gives the background, the rest is the
figure, and the figure's mask, cut to its bounding box, is compared with the mask of every shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .figures import PALETTE, SHAPES, Placement, paint
from .scenes import PICTURE_PX

MASK_PX = 32
MIN_FIGURE_SHARE = 0.02  # fewer pixels than this are specks, not a figure

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Reading:
    """What a picture shows. `overlaps` has the mask's overlap (IoU) with every shape."""

    colour: str
    background: str
    overlaps: dict[str, float]

    @property
    def shape(self) -> str:
        """The shape with the largest overlap."""
        return max(self.overlaps, key=lambda name: self.overlaps[name])


def cut_to_box(mask: Mask) -> Mask:
    """The mask's bounding box, resized to MASK_PX square."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    grey = Image.fromarray(box.astype(np.uint8) * 255)
    resized = np.asarray(grey.resize((MASK_PX, MASK_PX), Image.Resampling.BILINEAR)) > 127
    return resized


def _shape_masks() -> dict[str, Mask]:
    ink, paper = PALETTE["black"], PALETTE["white"]
    masks = {}
    for name, parts in SHAPES.items():
        picture = paint(parts(ink), Placement(radius=0.42), paper, 2 * PICTURE_PX)
        masks[name] = cut_to_box(np.asarray(picture).mean(-1) < 140)
    return masks


SHAPE_MASKS = _shape_masks()


def read_picture(picture: Image.Image) -> Reading | None:
    """Read one picture; None if there is no figure on it."""
    pixels = np.asarray(picture.convert("RGB").resize((PICTURE_PX, PICTURE_PX)), dtype=np.float64)
    names, colours = list(PALETTE), np.array(list(PALETTE.values()), dtype=np.float64)
    nearest = np.square(pixels[:, :, None] - colours).sum(-1).argmin(-1)
    sides = nearest[:3], nearest[-3:], nearest[:, :3], nearest[:, -3:]
    border = np.concatenate([side.ravel() for side in sides])
    background = int(np.bincount(border).argmax())
    mask = nearest != background
    if mask.mean() < MIN_FIGURE_SHARE:
        return None
    colour = names[int(np.bincount(nearest[mask]).argmax())]
    cut = cut_to_box(mask)
    overlaps = {
        name: float((cut & other).sum() / (cut | other).sum())
        for name, other in SHAPE_MASKS.items()
    }
    return Reading(colour, names[background], overlaps)
