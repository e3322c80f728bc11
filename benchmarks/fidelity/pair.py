"""Do two characters stand side by side, each whole and neither with anything of the other?

The picture is twice as wide as the base's; each half is read by itself. Of one half's figure almost
nothing may be in the colours that only the other character has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from assets.demo_making.figures import PALETTE

from .character import CHARACTER, SECOND, Character, Likeness, figure_of, likeness
from .pixels import grow, nearest, pixels_of, shrink

MAX_STRANGER = 0.03  # share of a half's figure in colours of the other character
EDGE_PX = 1  # bands up to twice as wide are where two colours meet, and do not count
TELLING = {  # cream is not: where yellow meets white, edges have it
    CHARACTER: ("teal", "magenta"),
    SECOND: ("orange", "purple"),
}


@dataclass(frozen=True)
class Half:
    """One half of the picture, read as the character that belongs there."""

    like: Likeness
    stranger: float  # share of the figure in the telling colours of the other

    @property
    def strict(self) -> bool:
        """The character, without bleed."""
        return self.like.strict and self.stranger <= MAX_STRANGER


def read_halves(picture: Image.Image) -> tuple[Half, Half]:
    """The left half as the first character, the right one as the second."""
    width, height = picture.size
    left = picture.crop((0, 0, width // 2, height))
    right = picture.crop((width // 2, 0, width, height))
    return _half(left, CHARACTER, SECOND), _half(right, SECOND, CHARACTER)


def both_strict(picture: Image.Image) -> bool:
    """Both characters whole, each in its half, without bleed."""
    return all(half.strict for half in read_halves(picture))


def _half(picture: Image.Image, who: Character, other: Character) -> Half:
    pixels = pixels_of(picture)
    colours = {**PALETTE, **who.colours, **other.colours}
    named = np.array(list(colours))[nearest(pixels, list(colours.values()))]
    figure = figure_of(pixels)
    strange = np.isin(named, TELLING[other]) & figure
    strange = grow(shrink(strange, EDGE_PX), EDGE_PX)
    return Half(likeness(picture, who), float(strange.sum() / max(1, figure.sum())))
