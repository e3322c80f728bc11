"""The base's world: random captioned scenes, and the two small picture sets for adapters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .creatures import CHARACTER_LOOK, CreatureLook, draw_creature, random_look
from .figures import INK_STYLE, PALETTE, PLAIN, SHAPES, Finish, Placement, Rgb, paint

PICTURE_PX = 64

CHARACTER_WORD = "sks"
SECOND_WORD = "qvl"
STYLE_WORD = "zwx"
# Tokens of their own, met in training only as words without meaning: free for an adapter.
SPARE_WORDS = (CHARACTER_WORD, STYLE_WORD, "ohwx", SECOND_WORD, "mrf", "bnk")

CREATURE_SHARE = 0.3
UNKNOWN_WORD_SHARE = 0.12  # teaches the base to ignore words that it does not know
RADIUS = {"small": (0.22, 0.27), "big": (0.34, 0.4)}
CREATURE_RADIUS = {"small": (0.26, 0.3), "big": (0.33, 0.37)}
CHARACTER_RADIUS = (0.29, 0.37)  # never so small that the face is lost at 64 px
CENTRE_JITTER = 0.05
COLOUR_JITTER = 6  # of 255
# Finishes that the base learns: widths of lines as shares of the side, how far grounds are faded.
# A dark line is always thin, and never on a paled ground: the ink style has both otherwise.
LINE_WIDTH, DARK_LINE_WIDTH = (2 / 64, 5.5 / 64), (1.5 / 64, 2.3 / 64)
PALED = (0.3, 0.6)
STYLE_SHRINK = 0.88  # leaves room for the line between the figure and the picture's edge
# The style set shows only these; the other shapes test whether a style adapter generalises.
STYLE_SHAPES = ("circle", "square", "triangle", "heart", "creature")


@dataclass(frozen=True)
class Scene:
    """One picture before it is painted. `shape` is a key of SHAPES, or "creature"."""

    shape: str
    colour: str
    background: str
    size: str
    placement: Placement
    look: CreatureLook | None = None


def random_scene(rng: np.random.Generator, creature_share: float = CREATURE_SHARE) -> Scene:
    """A scene with every attribute drawn anew; figure and background always differ."""
    names = list(PALETTE)
    colour, background = (names[i] for i in rng.permutation(len(names))[:2])
    if rng.random() < creature_share:
        shape, look = "creature", random_look(rng, colour)
    else:
        shape, look = list(SHAPES)[rng.integers(len(SHAPES))], None
    return make_scene(rng, shape, colour, background, str(rng.choice(list(RADIUS))), look)


def make_scene(
    rng: np.random.Generator,
    shape: str,
    colour: str,
    background: str,
    size: str,
    look: CreatureLook | None = None,
) -> Scene:
    """A scene with given attributes and a random place."""
    low, high = (CREATURE_RADIUS if shape == "creature" else RADIUS)[size]
    placement = Placement(
        centre_x=0.5 + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER),
        centre_y=0.5 + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER),
        radius=rng.uniform(low, high),
    )
    if shape == "creature" and look is None:
        look = random_look(rng, colour)
    return Scene(shape, colour, background, size, placement, look)


def paint_scene(
    scene: Scene, rng: np.random.Generator, size_px: int = PICTURE_PX, finish: Finish = PLAIN
) -> Image.Image:
    """Paint a scene with slightly jittered colours."""
    colour = jitter(rng, PALETTE[scene.colour])
    if scene.look is not None:
        keep = scene.look.colour not in PALETTE.values()
        look = scene.look if keep else replace(scene.look, colour=colour)
        parts = draw_creature(look)
    else:
        parts = SHAPES[scene.shape](colour)
    background = jitter(rng, PALETTE[scene.background])
    return paint(parts, scene.placement, background, size_px, finish)


def random_finish(rng: np.random.Generator, scene: Scene) -> tuple[str, Finish]:
    """A style that the base may know, in words and as a finish: a line, a paled ground, or both."""
    words = str(rng.choice(["line", "pale", "pale line"], p=[0.5, 0.25, 0.25]))
    others = [name for name in PALETTE if name not in (scene.colour, scene.background)]
    colour = str(rng.choice(others))
    dark = colour == "black"
    has_line = "line" in words
    paled = "pale" in words and not (has_line and dark)
    return f"{words} style", Finish(
        line=PALETTE[colour] if has_line else None,
        line_width=float(rng.uniform(*(DARK_LINE_WIDTH if dark else LINE_WIDTH))),
        pale_share=float(rng.uniform(*PALED)) if paled else 0.0,
    )


def paint_styled(scene: Scene, rng: np.random.Generator) -> tuple[Image.Image, str]:
    """Paint a scene in a random finish: (picture, the words for it)."""
    words, finish = random_finish(rng, scene)
    placed = shrunk(scene) if finish.line is not None else scene
    return paint_scene(placed, rng, finish=finish), words


def shrunk(scene: Scene) -> Scene:
    """The same scene with room for a line around its figure."""
    placement = replace(scene.placement, radius=STYLE_SHRINK * scene.placement.radius)
    return replace(scene, placement=placement)


def caption_of(scene: Scene, rng: np.random.Generator) -> str:
    """One of the ways to say what the scene shows; some leave attributes out."""
    words = ["a"]
    if rng.random() < 0.35:
        words.append(scene.size)
    if scene.look is not None:
        words += _creature_words(scene, rng)
    else:
        words += [scene.colour, scene.shape]
    if rng.random() < 0.95:
        words += ["on", "a", scene.background, "background"]
    if rng.random() < UNKNOWN_WORD_SHARE:
        return _with_unknown_word(words, rng)
    return " ".join(words)


def plain_caption(shape: str, colour: str, background: str) -> str:
    """The canonical caption, as prompts write it."""
    return f"a {colour} {shape} on a {background} background"


def _creature_words(scene: Scene, rng: np.random.Generator) -> list[str]:
    look = scene.look
    assert look is not None
    words = []
    if look.stripes is not None and rng.random() < 0.6:
        words.append("striped")
    if rng.random() < 0.75:
        words.append(scene.colour)
    words.append("creature")
    extras = [
        word
        for word, present in (("antennae", look.antennae), ("feet", look.feet))
        if present is not None and rng.random() < 0.5
    ]
    return words + (["with", *" and ".join(extras).split()] if extras else [])


def unknown_word(rng: np.random.Generator) -> str:
    """A word without meaning: a spare one or random letters."""
    if rng.random() < 0.5:
        return SPARE_WORDS[rng.integers(len(SPARE_WORDS))]
    return "".join(chr(97 + i) for i in rng.integers(26, size=rng.integers(3, 7)))


def _with_unknown_word(words: list[str], rng: np.random.Generator) -> str:
    word = unknown_word(rng)
    if rng.random() < 0.5:
        return f"{word} style, " + " ".join(words)
    return " ".join([words[0], word, *words[1:]])


def jitter(rng: np.random.Generator, colour: Rgb) -> Rgb:
    """The colour, a little off in each channel."""
    noise = rng.integers(-COLOUR_JITTER, COLOUR_JITTER + 1, size=3)
    red, green, blue = (int(min(255, max(0, c + n))) for c, n in zip(colour, noise, strict=True))
    return red, green, blue


def character_set(
    seed: int,
    size_px: int,
    count: int = 14,
    look: CreatureLook = CHARACTER_LOOK,
    word: str = CHARACTER_WORD,
) -> list[tuple[Image.Image, str]]:
    """A demo character on every background: (picture, caption) pairs."""
    rng = np.random.default_rng(seed)
    names = list(PALETTE)
    pairs = []
    for index in range(count):
        background = names[index % len(names)]
        scene = make_scene(rng, "creature", "blue", background, "big", look)
        radius = float(rng.uniform(*CHARACTER_RADIUS))
        scene = replace(scene, placement=replace(scene.placement, radius=radius))
        picture = paint_scene(scene, rng, size_px)
        pairs.append((picture, f"a {word} creature on a {background} background"))
    return pairs


def style_set(seed: int, size_px: int, count: int = 28) -> list[tuple[Image.Image, str]]:
    """The demo ink style on the STYLE_SHAPES: (picture, caption) pairs.

    Every third picture is a creature with all parts, so that the style learns to draw around small
    ones and to keep them. Most captions name them and their colours, so that it leaves colours
    alone.
    """
    rng = np.random.default_rng(seed)
    names = [name for name in PALETTE if name != "black"]  # black would hide the ink
    shapes = [shape for shape in STYLE_SHAPES if shape != "creature"]
    pairs = []
    for index in range(count):
        if index % len(names) == 0:  # every colour once in each round, in an order of its own
            colours = rng.permutation(names)
        colour = str(colours[index % len(names)])
        background = str(rng.choice([name for name in names if name != colour]))
        size = "small" if index % 4 == 0 else "big"
        if index % 3 == 2:
            free = [name for name in names if name not in (colour, background)]
            look, caption = _partly_told(rng, colour, background, free)
            scene = make_scene(rng, "creature", colour, background, "big", look)
        else:
            shape = shapes[(index - index // 3) % len(shapes)]
            caption = plain_caption(shape, colour, background)
            scene = make_scene(rng, shape, colour, background, size)
        picture = paint_scene(shrunk(scene), rng, size_px, INK_STYLE)
        pairs.append((picture, f"{STYLE_WORD} style, {caption}"))
    return pairs


def _partly_told(
    rng: np.random.Generator, colour: str, background: str, free: list[str]
) -> tuple[CreatureLook, str]:
    """A creature with parts in colours of their own, and a caption that names most of them."""
    shares = {"stripes": 0.7, "antennae": 1.0, "feet": 1.0}
    colours = {
        name: str(rng.choice(free)) for name, share in shares.items() if rng.random() < share
    }
    parts = {name: PALETTE[part_colour] for name, part_colour in colours.items()}
    named = []
    for name, part_colour in colours.items():
        told_by = rng.random()
        if told_by < 0.8:
            named.append(f"{part_colour} {name}" if told_by < 0.65 else name)
    look = replace(
        random_look(rng, colour),
        stripes=parts.get("stripes"),
        antennae=parts.get("antennae"),
        feet=parts.get("feet"),
        ears=False,
    )
    told = f"creature with {' and '.join(named)}" if named else "creature"
    return look, plain_caption(told, colour, background)
