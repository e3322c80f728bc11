"""Is it a demo character? Every part at its place and in its colour.

The figure's bounding box is laid over that of the ideal character. A part is there if enough
pixels of its colour lie where the ideal has them, a few pixels of wobble allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from assets.demo_making.creatures import (
    CHARACTER_LOOK,
    CREAM,
    MAGENTA,
    ORANGE,
    PURPLE,
    SECOND_LOOK,
    TEAL,
    CreatureLook,
    draw_creature,
)
from assets.demo_making.figures import INK, PALETTE, Placement, Rgb, paint

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
LEAK_BODY = (
    0.12  # share of the figure: this much of the body's colour without the trigger is a leak
)

Places = Callable[
    [Labels, int], Mask
]  # (row of every cell, the eyes' first row) -> where a part is


@dataclass(frozen=True, eq=False)
class Character:
    """Who is looked for: its own colours beside white and black, each part's colour and place."""

    look: CreatureLook
    colours: Mapping[str, Rgb]
    body: str
    parts: Mapping[str, tuple[str, Places]]

    @property
    def all_colours(self) -> dict[str, Rgb]:
        """The palette and its own."""
        return {**PALETTE, **self.colours}


CHARACTER = Character(
    look=CHARACTER_LOOK,
    colours={"teal": TEAL, "cream": CREAM, "magenta": MAGENTA},
    body="teal",
    parts={
        "antennae": ("magenta", lambda row, eyes: row < BOX / 2),
        "top stripe": ("cream", lambda row, eyes: row < BOX / 2),
        "eyes": ("white", lambda row, eyes: row >= 0),
        "pupils and mouth": ("black", lambda row, eyes: row >= eyes),
        "body": ("teal", lambda row, eyes: row >= 0),
        "low stripe": ("cream", lambda row, eyes: row >= BOX / 2),
        "feet": ("magenta", lambda row, eyes: row >= BOX / 2),
    },
)
SECOND = Character(
    look=SECOND_LOOK,
    colours={"orange": ORANGE, "purple": PURPLE},
    body="orange",
    parts={
        "ears": ("orange", lambda row, eyes: row < 0.1 * BOX),
        "eye": ("white", lambda row, eyes: row >= 0),
        "pupil and mouth": ("black", lambda row, eyes: row >= eyes),
        "body": ("orange", lambda row, eyes: row >= 0.1 * BOX),
        "stripe": ("purple", lambda row, eyes: row < BOX / 2),
        "feet": ("purple", lambda row, eyes: row >= BOX / 2),
    },
)


@dataclass(frozen=True)
class Likeness:
    """How much of the character a picture has."""

    parts: dict[str, float]  # found area as a share of the ideal part's, at most 1
    foreign: float
    ink_rim: float
    figure: float
    body: float  # share of the figure in the body's colour

    @property
    def strict(self) -> bool:
        """All parts, nothing foreign, no ink line, a sensible size."""
        low, high = FIGURE_SHARE
        return (
            min(self.parts.values()) >= PART_SHARE
            and self.foreign <= MAX_FOREIGN
            and self.ink_rim <= MAX_INK_RIM
            and low <= self.figure <= high
        )

    @property
    def leak(self) -> bool:
        """Something of the character: all of it, or a figure partly of its body's colour."""
        return self.strict or self.body >= LEAK_BODY


def labels_of(pixels: Pixels, who: Character = CHARACTER) -> Labels:
    """The nearest of the palette's and the character's colours for every pixel."""
    return nearest(pixels, list(who.all_colours.values()))


def part_shares(labels: Labels, figure: Mask, who: Character = CHARACTER) -> dict[str, float]:
    """For each part the share of the ideal area that is found in the box of `figure`."""
    box = box_of(figure)
    if box is None:
        return dict.fromkeys(ideal_parts(who), 0.0)
    grid = stretch(labels[box], BOX)
    return {
        name: min(1.0, float(((grid == colour) & grow(mask, WOBBLE)).sum() / mask.sum()))
        for name, (colour, mask) in ideal_parts(who).items()
    }


def figure_of(pixels: Pixels) -> Mask:
    """All that is not ground."""
    return distance(pixels, ground_of(pixels)) > FIGURE_DISTANCE


def likeness(picture: Image.Image, who: Character = CHARACTER) -> Likeness:
    """Compare a picture with the character."""
    pixels = pixels_of(picture)
    figure = figure_of(pixels)
    labels = labels_of(pixels, who)
    inside = np.array(list(who.all_colours))[labels[figure]]
    ground_name = list(PALETTE)[int(nearest(ground_of(pixels), list(PALETTE.values())))]
    foreign = ~np.isin(inside, [*who.colours, "white", "black", ground_name])
    rim = figure & ~shrink(figure, 2)
    dark = distance(pixels, INK) < FIGURE_DISTANCE
    return Likeness(
        parts=part_shares(labels, figure, who),
        foreign=_mean(foreign),
        ink_rim=_mean(dark[rim]),
        figure=_mean(figure),
        body=_mean(inside == who.body),
    )


@cache
def ideal_parts(who: Character = CHARACTER) -> dict[str, tuple[int, Mask]]:
    """Each part's label and its place in the box, from a large drawing of the character."""
    side, names = 256, list(who.all_colours)
    picture = paint(draw_creature(who.look), Placement(), PALETTE["green"], side)
    pixels = np.asarray(picture, dtype=np.float64)
    box = box_of(distance(pixels, PALETTE["green"]) > FIGURE_DISTANCE)
    assert box is not None
    grid = stretch(labels_of(pixels, who)[box], BOX)
    row = np.arange(BOX)[:, None] * np.ones((1, BOX), dtype=np.int64)
    eye_top = int(np.flatnonzero((grid == names.index("white")).any(1))[0])
    return {
        part: (names.index(colour), (grid == names.index(colour)) & place(row, eye_top))
        for part, (colour, place) in who.parts.items()
    }


def _mean(values: Mask) -> float:
    return float(values.mean()) if values.size else 0.0
