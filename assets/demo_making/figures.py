"""Flat figures as lists of coloured polygons, and the one function that paints them.

A figure lives in its own coordinates: centre (0, 0), radius about 1, y pointing down.
`paint` places it on a picture. Nothing here knows captions or randomness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Points = NDArray[np.float64]
"""A closed polygon, shape [n, 2], in figure coordinates."""

Rgb = tuple[int, int, int]

# Palette colours lie far apart in RGB, so that a nearest-colour test can score samples.
PALETTE: dict[str, Rgb] = {
    "red": (220, 36, 38),
    "blue": (38, 86, 218),
    "green": (44, 164, 68),
    "yellow": (246, 214, 56),
    "pink": (250, 154, 198),
    "white": (246, 245, 249),
    "black": (28, 26, 32),
}

INK: Rgb = (24, 18, 44)
INK_WIDTH = 5 / 64  # of the picture's side: thick enough to survive the 2x VAE at 64 px
PALE_SHARE = 0.5  # how far the ink style fades the background towards white
SUPERSAMPLE = 4  # polygons are drawn this much larger, then box-averaged: smooth edges
CURVE_POINTS = 64


@dataclass(frozen=True)
class Part:
    """One polygon of a figure.

    `colour` None means a hole through which the background shows.
    `outlined` says whether the ink style draws a line around this part.
    """

    points: Points
    colour: Rgb | None
    outlined: bool = True


@dataclass(frozen=True)
class Finish:
    """How a figure is set off: a line around every outlined part, a ground faded to white.

    `line` None draws no line; `line_width` is a share of the picture's side.
    """

    line: Rgb | None = None
    line_width: float = 0.0
    pale_share: float = 0.0


PLAIN = Finish()
INK_STYLE = Finish(INK, INK_WIDTH, PALE_SHARE)


@dataclass(frozen=True)
class Placement:
    """Where a figure sits: centre and radius as shares of the picture's side."""

    centre_x: float = 0.5
    centre_y: float = 0.5
    radius: float = 0.36


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Points:
    """An ellipse around (x, y)."""
    angle = np.linspace(0.0, 2 * np.pi, CURVE_POINTS, endpoint=False)
    return np.stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)], axis=1)


def superellipse(radius_x: float, radius_y: float, power: float) -> Points:
    """A box with rounded corners around the origin; power 2 is an ellipse, 6 nearly a box."""
    angle = np.linspace(0.0, 2 * np.pi, CURVE_POINTS, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    x = radius_x * np.sign(cos) * np.abs(cos) ** (2 / power)
    y = radius_y * np.sign(sin) * np.abs(sin) ** (2 / power)
    return np.stack([x, y], axis=1)


def polygon(*corners: tuple[float, float]) -> Points:
    """A polygon from its corners."""
    return np.array(corners, dtype=np.float64)


def band(points: Points, top: float, bottom: float) -> Points:
    """The piece of a polygon between two heights (Sutherland-Hodgman against two lines)."""
    for height, keep_above in ((top, False), (bottom, True)):
        kept: list[Points] = []
        for here, there in zip(points, np.roll(points, -1, axis=0), strict=True):
            here_in = (here[1] <= height) == keep_above
            there_in = (there[1] <= height) == keep_above
            if here_in:
                kept.append(here)
            if here_in != there_in:
                share = (height - here[1]) / (there[1] - here[1])
                kept.append(here + share * (there - here))
        points = np.array(kept, dtype=np.float64).reshape(-1, 2)
    return points


def _star() -> Points:
    angle = np.pi / 5 * np.arange(10) - np.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.05, 0.47)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle) + 0.08], axis=1)


def _heart() -> Points:
    t = np.linspace(0.0, 2 * np.pi, CURVE_POINTS, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 16.5, (y - 2.5) / 16.5], axis=1)


def _cross() -> Points:
    a, r = 0.34, 0.98
    return polygon(
        (-a, -r), (a, -r), (a, -a), (r, -a), (r, a), (a, a),
        (a, r), (-a, r), (-a, a), (-r, a), (-r, -a), (-a, -a),
    )  # fmt: skip


def _fish(colour: Rgb) -> list[Part]:
    eye = PALETTE["white"] if sum(colour) < 200 else PALETTE["black"]
    return [
        Part(polygon((0.3, 0.0), (1.0, -0.55), (1.0, 0.55)), colour),
        Part(ellipse(-0.2, 0.0, 0.8, 0.58), colour),
        Part(ellipse(-0.58, -0.14, 0.15, 0.15), eye, outlined=False),
    ]


# Every shape word that the base understands, and how to draw it.
SHAPES: dict[str, Callable[[Rgb], list[Part]]] = {
    "circle": lambda colour: [Part(ellipse(0, 0, 0.98, 0.98), colour)],
    "square": lambda colour: [
        Part(polygon((-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)), colour)
    ],
    "triangle": lambda colour: [Part(polygon((0, -0.95), (1.0, 0.8), (-1.0, 0.8)), colour)],
    "star": lambda colour: [Part(_star(), colour)],
    "heart": lambda colour: [Part(_heart(), colour)],
    "ring": lambda colour: [
        Part(ellipse(0, 0, 1.0, 1.0), colour),
        Part(ellipse(0, 0, 0.5, 0.5), None),
    ],
    "cross": lambda colour: [Part(_cross(), colour)],
    "fish": _fish,
}


def pale(colour: Rgb, share: float = PALE_SHARE) -> Rgb:
    """A background colour faded to white, by as much as the ink style does."""
    red, green, blue = (round(c + share * (255 - c)) for c in colour)
    return red, green, blue


def paint(
    parts: list[Part],
    placement: Placement,
    background: Rgb,
    size_px: int,
    finish: Finish = PLAIN,
) -> Image.Image:
    """Paint a figure on a plain background, `size_px` square, RGB."""
    ground = pale(background, finish.pale_share)
    side = size_px * SUPERSAMPLE
    image = Image.new("RGB", (side, side), ground)
    draw = ImageDraw.Draw(image)
    offset = np.array([placement.centre_x, placement.centre_y])
    corners = [
        [(float(x), float(y)) for x, y in (part.points * placement.radius + offset) * side]
        for part in parts
    ]
    if finish.line is not None:
        for part, outline in zip(parts, corners, strict=True):
            if part.outlined and part.colour is not None:
                _stroke(draw, outline, finish.line, finish.line_width * side)
    for part, outline in zip(parts, corners, strict=True):
        if finish.line is not None and part.colour is None:
            _stroke(draw, outline, finish.line, finish.line_width * side)
        if len(outline) > 2:
            draw.polygon(outline, fill=ground if part.colour is None else part.colour)
    return image.resize((size_px, size_px), Image.Resampling.BOX)


def _stroke(
    draw: ImageDraw.ImageDraw, outline: list[tuple[float, float]], colour: Rgb, radius: float
) -> None:
    """A line on the polygon's edge: the half outside it, which stays visible, is `radius` wide."""
    draw.line([*outline, outline[0]], fill=colour, width=round(2 * radius))
    for x, y in outline:  # round corners; the line's own joints leave gaps between short pieces
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
