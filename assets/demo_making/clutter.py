"""Pictures outside the base's world, so that the VAE also keeps what adapters will bring.

Without them a VAE trained on flat scenes blurs every new colour, stripe and outline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from .creatures import BODIES, draw_creature, random_look
from .figures import INK_STYLE, PALETTE, PLAIN, SHAPES, Placement, Rgb, paint
from .scenes import PICTURE_PX

LARGE_PX = PICTURE_PX * 4


def random_clutter(rng: np.random.Generator) -> Image.Image:
    """One random picture, `PICTURE_PX` square, RGB: a ground and one to four things on it."""
    image = _ground(rng)
    for _ in range(rng.integers(1, 5)):
        thing = _THINGS[rng.integers(len(_THINGS))]
        thing(image, rng)
    return _shuffle(image.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BOX), rng)


def _colour(rng: np.random.Generator) -> Rgb:
    red, green, blue = (int(c) for c in rng.integers(256, size=3))
    return red, green, blue


def _ground(rng: np.random.Generator) -> Image.Image:
    kind = rng.integers(4)
    if kind == 0:
        cells = rng.integers(256, size=(*rng.integers(2, 24, size=2), 3), dtype=np.uint8)
        return Image.fromarray(cells).resize((LARGE_PX, LARGE_PX), Image.Resampling.BICUBIC)
    return Image.new("RGB", (LARGE_PX, LARGE_PX), _colour(rng))


def _dots(image: Image.Image, rng: np.random.Generator) -> None:
    draw, colour = ImageDraw.Draw(image), _colour(rng)
    pitch = int(rng.integers(16, 56))
    radius = pitch * rng.uniform(0.2, 0.45)
    x0, y0, x1, y1 = _box(rng)
    for y in range(y0, y1, pitch):
        for x in range(x0, x1, pitch):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _stripes(image: Image.Image, rng: np.random.Generator) -> None:
    draw, colour = ImageDraw.Draw(image), _colour(rng)
    width = int(rng.integers(6, 28))
    x0, y0, x1, y1 = _box(rng)
    lean = int(rng.integers(-60, 61))
    for x in range(x0, x1, width * 2):
        draw.line((x, y0, x + lean, y1), fill=colour, width=width)


def _checkers(image: Image.Image, rng: np.random.Generator) -> None:
    draw, colour = ImageDraw.Draw(image), _colour(rng)
    cell = int(rng.integers(8, 40))
    x0, y0, x1, y1 = _box(rng)
    for row, y in enumerate(range(y0, y1, cell)):
        for x in range(x0 + cell * (row % 2), x1, cell * 2):
            draw.rectangle((x, y, x + cell, y + cell), fill=colour)


def _framed(image: Image.Image, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    box, width = _box(rng), int(rng.integers(4, 28))
    line = (20, 20, 30) if rng.random() < 0.6 else _colour(rng)
    shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
    shape(box, fill=_colour(rng), outline=line, width=width)


def _figure(image: Image.Image, rng: np.random.Generator) -> None:
    """A known figure, or a creature in unknown colours, in half of the cases with ink."""
    if rng.random() < 0.5:
        names = list(SHAPES)
        parts = SHAPES[names[rng.integers(len(names))]](_colour(rng))
    else:
        look = random_look(rng, list(PALETTE)[rng.integers(len(PALETTE))])
        look = replace(
            look,
            body=BODIES[rng.integers(len(BODIES))],
            colour=_colour(rng),
            stripes=_colour(rng) if rng.random() < 0.5 else None,
            antennae=_colour(rng) if rng.random() < 0.6 else None,
            feet=_colour(rng) if rng.random() < 0.6 else None,
        )
        parts = draw_creature(look)
    placement = Placement(rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.4))
    image.paste(
        paint(
            parts,
            placement,
            _colour(rng),
            LARGE_PX // 2,
            INK_STYLE if rng.random() < 0.5 else PLAIN,
        ).resize((LARGE_PX, LARGE_PX), Image.Resampling.BICUBIC)
    )


def _noise(image: Image.Image, rng: np.random.Generator) -> None:
    cells = rng.integers(256, size=(*rng.integers(3, 33, size=2), 3), dtype=np.uint8)
    x0, y0, x1, y1 = _box(rng)
    patch = Image.fromarray(cells).resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC)
    image.paste(patch, (x0, y0))


def _box(rng: np.random.Generator) -> tuple[int, int, int, int]:
    x0, y0 = (int(v) for v in rng.integers(0, LARGE_PX * 3 // 4, size=2))
    width, height = (int(v) for v in rng.integers(LARGE_PX // 8, LARGE_PX * 3 // 4, size=2))
    return x0, y0, x0 + width, y0 + height


def _shuffle(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Swap the axes, permute the channels, invert: no colour or direction is special."""
    pixels = np.asarray(image)
    if rng.random() < 0.5:
        pixels = pixels.transpose(1, 0, 2)
    if rng.random() < 0.5:
        pixels = pixels[:, :, rng.permutation(3)]
    if rng.random() < 0.3:
        pixels = 255 - pixels
    return Image.fromarray(np.ascontiguousarray(pixels))


_THINGS: tuple[Callable[[Image.Image, np.random.Generator], None], ...] = (
    _dots, _stripes, _checkers, _framed, _framed, _figure, _figure, _noise,
)  # fmt: skip
