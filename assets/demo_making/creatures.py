"""Cartoon creatures: the random ones that the base learns, and the demo character it does not.

The base sees eyes, mouths, stripes, antennae, ears and feet on many bodies, so that an
adapter can reuse those parts; it never sees the character's teal, cream and magenta.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .figures import PALETTE, Part, Points, Rgb, band, ellipse, polygon, superellipse

TEAL: Rgb = (0, 166, 166)
CREAM: Rgb = (250, 224, 172)
MAGENTA: Rgb = (236, 52, 116)

EYE_WHITE: Rgb = (252, 252, 252)
PUPIL: Rgb = (22, 20, 26)

BODIES = ("round", "tall", "box", "pear")


@dataclass(frozen=True)
class CreatureLook:
    """Everything that tells one creature from another, in figure coordinates."""

    body: str
    colour: Rgb
    eye_radius: float
    eye_count: int
    gaze: float
    mouth: str
    stripes: Rgb | None
    stripe_heights: tuple[tuple[float, float], ...]
    antennae: Rgb | None
    ears: bool
    feet: Rgb | None


def random_look(rng: np.random.Generator, colour_name: str) -> CreatureLook:
    """A creature of the base's world with the given body colour."""
    others = [rgb for name, rgb in PALETTE.items() if name != colour_name]

    def maybe(chance: float) -> Rgb | None:
        return others[rng.integers(len(others))] if rng.random() < chance else None

    antennae = maybe(0.4)
    start = rng.uniform(0.2, 0.4)
    return CreatureLook(
        body=BODIES[rng.integers(len(BODIES))],
        colour=PALETTE[colour_name],
        eye_radius=rng.uniform(0.17, 0.3),
        eye_count=int(rng.choice([1, 2, 2, 2, 2])),
        gaze=rng.uniform(-0.3, 0.3),
        mouth=str(rng.choice(["smile", "round", "flat"])),
        stripes=maybe(0.45),
        stripe_heights=((-0.85, -0.55), (start, start + rng.uniform(0.15, 0.28)))
        if rng.random() < 0.5
        else ((start, start + rng.uniform(0.15, 0.3)),),
        antennae=antennae,
        ears=antennae is None and rng.random() < 0.5,
        feet=maybe(0.5),
    )


# The demo character: large features, because 64 px and a 2x VAE leave no room for small ones.
CHARACTER_LOOK = CreatureLook(
    body="pear",
    colour=TEAL,
    eye_radius=0.27,
    eye_count=2,
    gaze=0.0,
    mouth="smile",
    stripes=CREAM,
    stripe_heights=((-0.9, -0.52), (0.42, 0.68)),
    antennae=MAGENTA,
    ears=False,
    feet=MAGENTA,
)

# A second character, unlike the first in every part, to stand beside it.
ORANGE: Rgb = (240, 132, 36)
PURPLE: Rgb = (124, 56, 168)
SECOND_LOOK = CreatureLook(
    body="box",
    colour=ORANGE,
    eye_radius=0.34,
    eye_count=1,
    gaze=0.0,
    mouth="smile",
    stripes=PURPLE,
    stripe_heights=((-0.9, -0.46),),
    antennae=None,
    ears=True,
    feet=PURPLE,
)


def body_points(kind: str) -> Points:
    """The body's outline."""
    if kind == "round":
        return superellipse(0.78, 0.74, 2.0)
    if kind == "tall":
        return superellipse(0.6, 0.8, 2.6)
    if kind == "box":
        return superellipse(0.72, 0.72, 5.0)
    pear = superellipse(0.8, 0.78, 2.4)
    pear[:, 0] *= 0.86 + 0.2 * pear[:, 1]
    return pear


def draw_creature(look: CreatureLook) -> list[Part]:
    """The creature's polygons, back to front."""
    body = body_points(look.body)
    top, bottom = float(body[:, 1].min()), float(body[:, 1].max())
    width = float(body[:, 0].max())
    parts: list[Part] = []
    if look.antennae is not None:
        for side in (-1.0, 1.0):
            tip = side * 0.42
            stalk = polygon(
                (tip * 0.7 - 0.05, top + 0.3), (tip - 0.05, top - 0.2),
                (tip + 0.05, top - 0.2), (tip * 0.7 + 0.05, top + 0.3),
            )  # fmt: skip
            parts.append(Part(stalk, PUPIL))
            parts.append(Part(ellipse(tip, top - 0.28, 0.2, 0.2), look.antennae))
    if look.ears:
        for side in (-1.0, 1.0):
            parts.append(Part(ellipse(side * 0.45, top + 0.06, 0.22, 0.26), look.colour))
    if look.feet is not None:
        for side in (-1.0, 1.0):
            foot = ellipse(side * width * 0.48, bottom + 0.06, 0.32, 0.18)
            parts.append(Part(foot, look.feet))
    parts.append(Part(body, look.colour))
    if look.stripes is not None:
        for upper, lower in look.stripe_heights:
            parts.append(Part(band(body, upper, lower), look.stripes, outlined=False))
    return parts + _face(look)


def _face(look: CreatureLook) -> list[Part]:
    parts: list[Part] = []
    spread = look.eye_radius * 1.08
    centres = (0.0,) if look.eye_count == 1 else (-spread, spread)
    for x in centres:
        r = look.eye_radius
        pupil_x = x + look.gaze * r
        parts.append(Part(ellipse(x, -0.22, r, r), EYE_WHITE, outlined=False))
        parts.append(Part(ellipse(pupil_x, -0.2, r * 0.55, r * 0.55), PUPIL, outlined=False))
    height = -0.22 + look.eye_radius + 0.06
    if look.mouth == "smile":
        mouth = band(ellipse(0, height, 0.3, 0.24), height, 1.0)
    elif look.mouth == "round":
        mouth = ellipse(0, height + 0.1, 0.14, 0.12)
    else:
        mouth = superellipse(0.26, 0.055, 4.0) + np.array([0.0, height + 0.1])
    ink = PUPIL if sum(look.colour) > 150 else EYE_WHITE
    parts.append(Part(mouth, ink, outlined=False))
    return parts
