"""The base's second schooling: scenes whose every trait has a word.

Line, ground, body and each part of a creature take their colours from the caption, on shapes and
creatures alike, so that content and style are independent of each other and an adapter finds a
word's direction for whatever it wants to change. What the demo's adapters teach stays unseen: no
colour here is nearest to teal, cream or magenta, and no dark line is thick or on a paled ground.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from .creatures import (
    BODIES,
    CREAM,
    MAGENTA,
    ORANGE,
    PURPLE,
    TEAL,
    CreatureLook,
    draw_creature,
    random_look,
)
from .figures import INK, PALETTE, PLAIN, SHAPES, Finish, Part, Rgb, paint
from .scenes import (
    CENTRE_JITTER,
    DARK_LINE_WIDTH,
    PALED,
    PICTURE_PX,
    RADIUS,
    Scene,
    jitter,
    make_scene,
    shrunk,
    unknown_word,
)

EXTRA_COLOURS: dict[str, Rgb] = {
    "orange": ORANGE,
    "purple": PURPLE,
    "grey": (136, 138, 142),
}
COLOURS = {**PALETTE, **EXTRA_COLOURS}
LINE_WIDTHS = {"thin": (1.6 / 64, 2.6 / 64), "thick": (3.6 / 64, 5.5 / 64)}
OWN_DISTANCE = 70.0  # at least this far from the character's colours
INK_DISTANCE = 115.0  # a line colour nearer to the ink than this counts as dark

CREATURE_SHARE, STYLED_SHARE = 0.5, 0.55
NAMELESS_SHARE = 0.2  # of colours: any colour at all, which the caption leaves out
PART_CHANCE, TOLD_CHANCE = 0.5, 0.8
UNKNOWN_STYLE_SHARE = 0.2  # of styled scenes: a word without meaning stands for the style

# Attribute -> the words that can name it; "" where the caption does not, "some" without colour.
_COLOUR_WORDS = ("some", *COLOURS)
TRAITS: dict[str, tuple[str, ...]] = {
    "shape": (*SHAPES, "creature"),
    "colour": tuple(COLOURS),
    "background": tuple(PALETTE),
    "size": tuple(RADIUS),
    "body": BODIES,
    "stripes": _COLOUR_WORDS,
    "antennae": _COLOUR_WORDS,
    "feet": _COLOUR_WORDS,
    "ears": ("some",),
    "line": _COLOUR_WORDS,
    "width": tuple(LINE_WIDTHS),
    "pale": ("some",),
}


@dataclass(frozen=True)
class Varied:
    """A painted scene, its caption, and what the caption tells: a TRAITS key -> its word."""

    picture: Image.Image
    caption: str
    told: dict[str, str] = field(default_factory=dict)


def varied_scene(rng: np.random.Generator, pictures: int = 1) -> Varied:
    """A scene with every trait drawn anew.

    Two pictures stand side by side on one ground, the figure at another place in each; with none
    only the caption is of use.
    """
    told: dict[str, str] = {}
    background = str(rng.choice(list(PALETTE)))
    colour, rgb = _colour(rng, background)
    size = str(rng.choice(list(RADIUS)))
    if rng.random() < CREATURE_SHARE:
        look, parts_words = _look(rng, rgb, background, told)
        scene = make_scene(rng, "creature", colour, background, size, look)
    else:
        look, parts_words = None, []
        shape = str(rng.choice(list(SHAPES)))
        scene = make_scene(rng, shape, colour, background, size)
    style, finish = _finish(rng, (colour, background), _is_dark(rgb), told)
    words = ["a"]
    if rng.random() < 0.35:
        words.append(_tell(told, "size", size))
    if look is not None and rng.random() < 0.5:
        words.append(_tell(told, "body", look.body))
    if colour and rng.random() < (0.85 if look is not None else 1.0):
        words.append(_tell(told, "colour", colour))
    words.append(_tell(told, "shape", scene.shape))
    words += parts_words
    if rng.random() < 0.95:
        words += ["on", "a", _tell(told, "background", background), "background"]
    caption = " ".join([*style, *words])
    return Varied(_painted(rng, scene, rgb, finish, pictures), caption, told)


def _painted(
    rng: np.random.Generator, scene: Scene, rgb: Rgb, finish: Finish, pictures: int
) -> Image.Image:
    placed = shrunk(scene) if finish.line is not None else scene
    colour = jitter(rng, rgb)
    parts: list[Part]
    if scene.look is not None:
        parts = draw_creature(replace(scene.look, colour=colour))
    else:
        parts = SHAPES[scene.shape](colour)
    ground = jitter(rng, PALETTE[scene.background])
    row = Image.new("RGB", (PICTURE_PX * max(1, pictures), PICTURE_PX))
    for index in range(pictures):
        row.paste(
            paint(parts, placed.placement, ground, PICTURE_PX, finish), (PICTURE_PX * index, 0)
        )
        x, y = rng.uniform(-CENTRE_JITTER, CENTRE_JITTER, size=2)
        moved = replace(placed.placement, centre_x=0.5 + x, centre_y=0.5 + y)
        placed = replace(placed, placement=moved)
    return row


def _tell(told: dict[str, str], trait: str, word: str) -> str:
    told[trait] = word
    return word


def _colour(rng: np.random.Generator, *others: str) -> tuple[str, Rgb]:
    """A colour and its name; no name for one that has none."""
    if rng.random() < NAMELESS_SHARE:
        return "", _nameless(rng)
    name = str(rng.choice([name for name in COLOURS if name not in others]))
    return name, COLOURS[name]


def _nameless(rng: np.random.Generator) -> Rgb:
    """Any colour but those nearest to the character's."""
    names = np.array([*PALETTE.values(), TEAL, CREAM, MAGENTA], dtype=np.float64)
    while True:
        red, green, blue = (int(c) for c in rng.integers(256, size=3))
        apart = np.linalg.norm(names - (red, green, blue), axis=1)
        if apart[:-3].min() + 12 < apart[-3:].min() and apart[-3:].min() > OWN_DISTANCE:
            return red, green, blue


def _is_dark(colour: Rgb) -> bool:
    return float(np.linalg.norm(np.subtract(colour, INK))) < INK_DISTANCE


def _look(
    rng: np.random.Generator, rgb: Rgb, background: str, told: dict[str, str]
) -> tuple[CreatureLook, list[str]]:
    """A creature's look and the words for its parts."""
    look = random_look(rng, "white")
    start = rng.uniform(0.2, 0.4)
    two = rng.random() < 0.5
    low_stripe = (start, start + rng.uniform(0.15, 0.28))
    body_name = next((name for name, value in COLOURS.items() if value == rgb), "")
    parts: dict[str, Rgb | None] = {}
    phrases: list[str] = []
    for part in ("stripes", "antennae", "feet"):
        parts[part] = None
        if rng.random() >= PART_CHANCE:
            continue
        name, parts[part] = _colour(rng, body_name, background)
        if rng.random() < TOLD_CHANCE:
            named = name and rng.random() < TOLD_CHANCE
            told[part] = name if named else "some"
            phrases.append(f"{name} {part}" if named else part)
    ears = parts["antennae"] is None and rng.random() < 0.5
    if ears and rng.random() < TOLD_CHANCE:
        phrases.append("ears")
        told["ears"] = "some"
    look = replace(
        look,
        colour=rgb,
        stripes=parts["stripes"],
        stripe_heights=((-0.88, -0.54), low_stripe) if two else (low_stripe,),
        antennae=parts["antennae"],
        feet=parts["feet"],
        ears=ears,
    )
    return look, (["with", *" and ".join(phrases).split()] if phrases else [])


def _finish(
    rng: np.random.Generator, taken: tuple[str, str], on_dark: bool, told: dict[str, str]
) -> tuple[list[str], Finish]:
    """The words in front of the caption, and the finish that they name.

    Around or beside a dark figure no ground is paled: a dark ring would be an ink drawing.
    """
    if rng.random() >= STYLED_SHARE:
        return (["plain", "style,"] if rng.random() < 0.1 else []), PLAIN
    kind = str(rng.choice(["line", "pale", "pale line"], p=[0.45, 0.2, 0.35]))
    words: list[str] = []
    line: Rgb | None = None
    width, paled = 0.0, "pale" in kind and not on_dark
    named: dict[str, str] = {}
    if "line" in kind:
        name, line = _colour(rng, *taken)
        dark = _is_dark(line)
        thickness = "thin" if dark else str(rng.choice(list(LINE_WIDTHS)))
        width = float(rng.uniform(*(DARK_LINE_WIDTH if dark else LINE_WIDTHS[thickness])))
        paled = paled and not dark
        if rng.random() < TOLD_CHANCE:
            words.append(_tell(named, "width", thickness))
        if name and rng.random() < TOLD_CHANCE:
            words.append(_tell(named, "line", name))
        else:
            named["line"] = "some"
        words.append("line")
    if paled:
        words.insert(0, "pale")
        named["pale"] = "some"
    finish = Finish(line, width, float(rng.uniform(*PALED)) if paled else 0.0)
    if finish == PLAIN:
        return [], PLAIN
    if rng.random() < UNKNOWN_STYLE_SHARE:
        return [unknown_word(rng), "style,"], finish
    told.update(named)
    return [*words, "style,"], finish
