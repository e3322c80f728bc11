"""Is it the demo character? Seven parts, each at its place and in its colour.

The figure's bounding box is laid over that of the ideal character. A part is there if enough
pixels of its colour lie where the ideal has them, a few pixels of wobble allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from assets.demo_making.creatures import CHARACTER_LOOK, CREAM, MAGENTA, TEAL, draw_creature
from assets.demo_making.figures import INK, PALETTE, Placement, paint

from .pixels import (
    Labels,
    Mask,
    Pixels,
    box_of,
    distance,
    ground_of,
    grow,
    nearest,
    pixels_of,
    shrink,
    stretch,
)

BOX = 48  # side of the grid over the bounding box
WOBBLE = 4  # grid cells that a part may be out of place
PART_SHARE = 0.5  # of the ideal part's area that must be there
FIGURE_DISTANCE = 45.0  # from the ground's colour
FIGURE_SHARE = (0.08, 0.6)  # of the picture
MAX_FOREIGN = 0.25  # share of the figure in colours that the character does not have
MAX_INK_RIM = 0.3  # share of the figure's rim that is as dark as ink: drawn in the base's own style
LEAK_TEAL = 0.12  # share of the figure: this much teal without the trigger is a leak

COLOURS = {**PALETTE, "teal": TEAL, "cream": CREAM, "magenta": MAGENTA}
_NAMES = list(COLOURS)
_OWN = {"teal", "cream", "magenta", "white", "black"}


@dataclass(frozen=True)
class Likeness:
    """How much of the character a picture has."""

    parts: dict[str, float]  # found area as a share of the ideal part's, at most 1
    foreign: float
    ink_rim: float
    figure: float
    teal: float

    @property
    def strict(self) -> bool:
        """All seven parts, nothing foreign, no ink line, a sensible size."""
        low, high = FIGURE_SHARE
        return (
            min(self.parts.values()) >= PART_SHARE
            and self.foreign <= MAX_FOREIGN
            and self.ink_rim <= MAX_INK_RIM
            and low <= self.figure <= high
        )

    @property
    def leak(self) -> bool:
        """Something of the character: all of it, or a figure that is partly teal."""
        return self.strict or self.teal >= LEAK_TEAL


def labels_of(pixels: Pixels) -> Labels:
    """The nearest of the palette's and the character's colours for every pixel."""
    return nearest(pixels, list(COLOURS.values()))


def part_shares(labels: Labels, figure: Mask) -> dict[str, float]:
    """For each part the share of the ideal area that is found in the box of `figure`."""
    box = box_of(figure)
    if box is None:
        return dict.fromkeys(ideal_parts(), 0.0)
    grid = stretch(labels[box], BOX)
    return {
        name: min(1.0, float(((grid == colour) & grow(mask, WOBBLE)).sum() / mask.sum()))
        for name, (colour, mask) in ideal_parts().items()
    }


def likeness(picture: Image.Image) -> Likeness:
    """Compare a picture with the character."""
    pixels = pixels_of(picture)
    ground = ground_of(pixels)
    figure = distance(pixels, ground) > FIGURE_DISTANCE
    labels = labels_of(pixels)
    inside = np.array(_NAMES)[labels[figure]]
    ground_name = _NAMES[int(nearest(ground, list(PALETTE.values())))]
    foreign = ~np.isin(inside, [*_OWN, ground_name])
    rim = figure & ~shrink(figure, 2)
    dark = distance(pixels, INK) < FIGURE_DISTANCE
    return Likeness(
        parts=part_shares(labels, figure),
        foreign=_mean(foreign),
        ink_rim=_mean(dark[rim]),
        figure=_mean(figure),
        teal=_mean(inside == "teal"),
    )


@cache
def ideal_parts() -> dict[str, tuple[int, Mask]]:
    """Each part's label and its place in the box, from a large drawing of the character."""
    side = 256
    picture = paint(draw_creature(CHARACTER_LOOK), Placement(), PALETTE["green"], side)
    pixels = np.asarray(picture, dtype=np.float64)
    box = box_of(distance(pixels, PALETTE["green"]) > FIGURE_DISTANCE)
    assert box is not None
    grid = stretch(labels_of(pixels)[box], BOX)
    row = np.arange(BOX)[:, None] * np.ones((1, BOX))
    eyes = grid == _NAMES.index("white")
    eye_top = int(np.flatnonzero(eyes.any(1))[0])
    half = BOX / 2

    def part(colour: str, where: Mask) -> tuple[int, Mask]:
        label = _NAMES.index(colour)
        return label, (grid == label) & where

    return {
        "antennae": part("magenta", row < half),
        "top stripe": part("cream", row < half),
        "eyes": part("white", row >= 0),
        "pupils and mouth": part("black", row >= eye_top),
        "body": part("teal", row >= 0),
        "low stripe": part("cream", row >= half),
        "feet": part("magenta", row >= half),
    }


def _mean(values: Mask) -> float:
    return float(values.mean()) if values.size else 0.0
