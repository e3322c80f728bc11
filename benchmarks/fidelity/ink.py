"""Is it the demo's ink style? A closed, thick, dark line around the figure, on a paled ground.

What the line encloses is the fill. Its colour and its shape are read from that alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from assets.demo_making.figures import INK, INK_STYLE, PALETTE, SHAPES, Placement, paint, pale
from assets.demo_making.reader import cut_to_box

from .pixels import (
    Mask,
    distance,
    ground_of,
    grow,
    nearest,
    pixels_of,
    reached_from_border,
)

LINE_PX = 3  # of the drawn 5: a thinner line does not count
LINE_SHARE = 0.75  # of a band that wide around the fill must be dark
INSIDE_SHARE = (0.02, 0.5)  # of the picture
GAP_PX = 1  # gaps of up to twice this in the line are forgiven
GROUND_DISTANCE = 40.0  # enclosed pixels this near to the ground are holes, not fill
TEMPLATE_RADII = (0.27, 0.31, 0.35)
NO_INK_GROUNDS = ("white", "black")  # on these "paler" can't be told, or the line not be seen

_BRIGHT = [rgb for name, rgb in PALETTE.items() if name != "black"]
_PALE = {name: pale(rgb) for name, rgb in PALETTE.items()}


@dataclass(frozen=True)
class Drawing:
    """What an ink drawing shows. `inside` is all that the line encloses."""

    line: float  # dark share of the band around the inside
    paled: bool  # nearer to the asked background's pale version than to itself
    background: str  # the nearest pale colour's name
    colour: str | None
    shape: str | None
    inside: Mask

    @property
    def strict(self) -> bool:
        """The whole style: closed thick line and paled ground."""
        low, high = INSIDE_SHARE
        return self.line >= LINE_SHARE and self.paled and low <= float(self.inside.mean()) <= high


def read_drawing(picture: Image.Image, asked_background: str) -> Drawing:
    """Read a picture as an ink drawing on `asked_background`."""
    pixels = pixels_of(picture)
    ground = ground_of(pixels)
    dark = nearest(pixels, [INK, *_BRIGHT, *_PALE.values()]) == 0
    inside = _inside(dark)
    band = grow(inside, LINE_PX) & ~inside
    asked, paled = PALETTE[asked_background], _PALE[asked_background]
    fill = pixels[inside & (distance(pixels, ground) > GROUND_DISTANCE)]
    names = list(PALETTE)
    return Drawing(
        line=float(dark[band].mean()) if band.any() else 0.0,
        paled=asked_background not in NO_INK_GROUNDS
        and float(distance(ground, paled)) < float(distance(ground, asked)),
        background=names[int(nearest(ground, list(_PALE.values())))],
        colour=names[int(np.bincount(nearest(fill, list(PALETTE.values()))).argmax())]
        if len(fill)
        else None,
        shape=_shape(inside) if inside.any() else None,
        inside=inside,
    )


def _inside(dark: Mask) -> Mask:
    outside = grow(reached_from_border(~grow(dark, GAP_PX)), GAP_PX)
    return ~outside & ~dark


def _shape(inside: Mask) -> str:
    """The shape whose drawn fill overlaps best, at any of the template sizes."""
    cut = cut_to_box(inside)
    overlaps = {
        name: max(float((cut & mask).sum() / (cut | mask).sum()) for mask in masks)
        for name, masks in _templates().items()
    }
    return max(overlaps, key=lambda name: overlaps[name])


@cache
def _templates() -> dict[str, list[Mask]]:
    side = 128
    templates: dict[str, list[Mask]] = {}
    for name, parts in SHAPES.items():
        templates[name] = []
        for radius in TEMPLATE_RADII:
            picture = paint(
                parts(PALETTE["red"]), Placement(radius=radius), PALETTE["blue"], side, INK_STYLE
            )
            pixels = np.asarray(picture, dtype=np.float64)
            dark = nearest(pixels, [INK, *_BRIGHT, *_PALE.values()]) == 0
            templates[name].append(cut_to_box(_inside(dark)))
    return templates
