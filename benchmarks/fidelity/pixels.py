"""Pixel arithmetic that the scores share: ground, nearest colours, masks.

Pictures are `[64, 64, 3]` in 0 to 255, masks bool `[64, 64]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from assets.demo_making.figures import Rgb
from assets.demo_making.scenes import PICTURE_PX

Pixels = NDArray[np.float64]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int64]
BORDER_PX = 3


def pixels_of(picture: Image.Image) -> Pixels:
    """The picture's pixels at the demo base's size."""
    small = picture.convert("RGB")
    if small.size != (PICTURE_PX, PICTURE_PX):
        small = small.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.float64)


def ground_of(pixels: Pixels) -> Pixels:
    """The background's colour `[3]`: the median of a border on all four sides."""
    b = BORDER_PX
    sides = pixels[:b], pixels[-b:], pixels[:, :b], pixels[:, -b:]
    median: Pixels = np.median(np.concatenate([side.reshape(-1, 3) for side in sides]), axis=0)
    return median


def distance(pixels: Pixels, colour: Rgb | Pixels) -> Pixels:
    """Euclidean RGB distance of every pixel from `colour`."""
    difference: Pixels = np.linalg.norm(pixels - np.asarray(colour, dtype=np.float64), axis=-1)
    return difference


def nearest(pixels: Pixels, colours: Sequence[Rgb]) -> Labels:
    """For every pixel the index of the nearest of `colours`."""
    return np.stack([distance(pixels, colour) for colour in colours]).argmin(0)


def grow(mask: Mask, px: int) -> Mask:
    """The mask and everything within `px` of it, diagonals included."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.filter(ImageFilter.MaxFilter(2 * px + 1))) > 0


def shrink(mask: Mask, px: int) -> Mask:
    """The mask without what lies within `px` of its edge."""
    return ~grow(~mask, px)


def reached_from_border(free: Mask) -> Mask:
    """The part of `free` that is joined to the picture's border through `free` (4 neighbours)."""
    reached = np.zeros_like(free)
    reached[[0, -1]], reached[:, [0, -1]] = free[[0, -1]], free[:, [0, -1]]
    while True:
        wider = reached.copy()
        wider[1:] |= reached[:-1]
        wider[:-1] |= reached[1:]
        wider[:, 1:] |= reached[:, :-1]
        wider[:, :-1] |= reached[:, 1:]
        wider &= free
        if (wider == reached).all():
            return reached
        reached = wider


def box_of(mask: Mask, least: int = 2) -> tuple[slice, slice] | None:
    """The mask's bounding box; rows and columns with fewer than `least` pixels are specks."""
    rows = np.flatnonzero(mask.sum(1) >= least)
    columns = np.flatnonzero(mask.sum(0) >= least)
    if not len(rows) or not len(columns):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def stretch(labels: Labels, side: int) -> Labels:
    """`labels` resampled to `side` square, nearest neighbour."""
    rows = (np.arange(side) + 0.5) * labels.shape[0] / side
    columns = (np.arange(side) + 0.5) * labels.shape[1] / side
    return labels[rows.astype(int)[:, None], columns.astype(int)[None]]
