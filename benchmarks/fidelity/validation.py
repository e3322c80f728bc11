"""The scores against pictures whose truth is known, drawn and passed through the base's VAE.

Each case says which share of its pictures has to pass; `check` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from assets.demo_making.creatures import CHARACTER_LOOK, SECOND_LOOK, CreatureLook
from assets.demo_making.figures import INK_STYLE, PALETTE, PLAIN, SHAPES, Finish, pale
from assets.demo_making.scenes import (
    CHARACTER_RADIUS,
    PICTURE_PX,
    Scene,
    character_set,
    make_scene,
    paint_scene,
    paint_styled,
    random_scene,
    shrunk,
)
from assets.demo_making.vae import to_unit
from lora_diffusion.families import DiffusionBase
from lora_diffusion.generate import to_images

from .character import SECOND, figure_of, likeness
from .composition import read_mix
from .ink import NO_INK_GROUNDS, read_drawing
from .pair import both_strict
from .pixels import distance, pixels_of

COUNT = 200
SEED = 77
VAE_BATCH = 20
PALED_DISTANCE = 45.0

Judge = Callable[[Image.Image, str], bool]
Pairs = list[tuple[Image.Image, str]]  # picture and background


@dataclass(frozen=True)
class Case:
    """Pictures of one kind, a score, and the share that has to pass: at least, or at most."""

    name: str
    pairs: Pairs
    judge: Judge
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """How many of a case's pictures passed."""

    case: Case
    passed: float

    @property
    def right(self) -> bool:
        return self.case.low <= self.passed <= self.case.high

    def __str__(self) -> str:
        wanted = f">= {self.case.low:.0%}" if self.case.low > 0 else f"<= {self.case.high:.0%}"
        mark = "" if self.right else "   <-- WRONG"
        return f"{self.case.name:<58} {self.passed:6.1%}  wanted {wanted}{mark}"


def strict_character(picture: Image.Image, background: str) -> bool:
    """The strict likeness, which does not look at the background."""
    return likeness(picture).strict


def leaked_character(picture: Image.Image, background: str) -> bool:
    """Traces of the character."""
    return likeness(picture).leak


def strict_ink(picture: Image.Image, background: str) -> bool:
    """The strict style."""
    return read_drawing(picture, background).strict


def strict_mix(picture: Image.Image, background: str) -> bool:
    """The strict composition."""
    return read_mix(picture, background).strict


def strict_second(picture: Image.Image, background: str) -> bool:
    """The second character's strict likeness."""
    return likeness(picture, SECOND).strict


def strict_pair(picture: Image.Image, background: str) -> bool:
    """Two characters side by side."""
    return both_strict(picture)


def cases(count: int = COUNT, seed: int = SEED) -> list[Case]:
    """Every case, from drawn pictures."""
    characters = drawn_characters(count, seed)
    inks, mixes = drawn_inks(count, seed), drawn_mixes(count, seed)
    scenes = drawn_scenes(count, seed)
    unlike = [(name, drawn_characters(count, seed, look)) for name, look in near_misses().items()]
    return [
        Case("character score: the drawn character", characters, strict_character, low=0.98),
        *(
            Case(f"character score: the character {name}", pairs, strict_character, high=0.02)
            for name, pairs in unlike
        ),
        Case("character score: drawn mixes with the ink style", mixes, strict_character, high=0.02),
        Case("character score: base scenes, half creatures", scenes, strict_character, high=0.0),
        Case("character leak: base scenes, half creatures", scenes, leaked_character, high=0.01),
        Case("character leak: the drawn character", characters, leaked_character, low=0.98),
        Case("style score: drawn ink pictures", [i[:2] for i in inks], strict_ink, low=0.98),
        Case("style score: the line on an unpaled ground", unpaled(inks), strict_ink, high=0.02),
        Case("style score: a paled ground without line", lineless(count, seed), strict_ink, high=0),
        Case("style score: base scenes, half creatures", scenes, strict_ink, high=0.0),
        Case("style score: the base's own styles", drawn_styles(count, seed), strict_ink, high=0.0),
        Case("composition score: drawn mixes", mixes, strict_mix, low=0.95),
        Case("composition score: the plain character", characters, strict_mix, high=0.0),
        Case("composition score: ink without it", [i[:2] for i in inks], strict_mix, high=0.0),
        *pair_cases(count, seed),
    ]


def pair_cases(count: int, seed: int) -> list[Case]:
    """The second character's score, and two characters side by side."""
    first, second = CHARACTER_LOOK, SECOND_LOOK
    unlike = {
        "swapped": (second, first),
        "the first twice": (first, first),
        "the second twice": (second, second),
        "in one another's colour": (
            replace(first, colour=second.colour), replace(second, colour=first.colour)
        ),
        "the first with the other's stripes": (replace(first, stripes=second.stripes), second),
        "the second with the other's feet": (first, replace(second, feet=first.feet)),
        "the second with the other's antennae": (first, replace(second, antennae=first.antennae)),
    }  # fmt: skip
    right = drawn_pairs(count, seed, (first, second))
    seconds = drawn_characters(count, seed, second)
    scenes = drawn_scenes(count, seed)
    return [
        Case("second character: drawn", seconds, strict_second, low=0.98),
        Case("second character: the first", drawn_characters(count, seed), strict_second, high=0.0),
        Case("second character: base scenes", scenes, strict_second, high=0.0),
        Case("side by side: drawn", right, strict_pair, low=0.98),
        Case("side by side: a stain of the other's colour", stained(right), strict_pair, high=0.05),
        *(
            Case(f"side by side: {name}", drawn_pairs(count, seed, looks), strict_pair, high=0.02)
            for name, looks in unlike.items()
        ),
    ]


def check(made: Iterable[Case], base: DiffusionBase | None = None) -> list[Outcome]:
    """Measure cases; with `base`, on its VAE's reconstructions instead of the pictures."""
    outcomes = []
    for case in made:
        pictures = [picture for picture, _ in case.pairs]
        if base is not None:
            pictures = reconstructions(base, pictures)
        grounds = [background for _, background in case.pairs]
        passed = [case.judge(p, b) for p, b in zip(pictures, grounds, strict=True)]
        outcomes.append(Outcome(case, float(np.mean(passed))))
    return outcomes


def ink_readings(
    count: int = COUNT, seed: int = SEED, base: DiffusionBase | None = None
) -> tuple[float, float, float]:
    """Shares of drawn ink pictures whose shape, colour and background are read right."""
    inks = [ink for ink in drawn_inks(count, seed) if ink[2].shape in SHAPES]
    pictures = [picture for picture, _, _ in inks]
    if base is not None:
        pictures = reconstructions(base, pictures)
    rows = []
    for picture, (_, background, scene) in zip(pictures, inks, strict=True):
        drawing = read_drawing(picture, background)
        rows.append(
            (
                drawing.shape == scene.shape,
                drawing.colour == scene.colour,
                drawing.background == background,
            )
        )
    shape, colour, ground = np.mean(rows, axis=0).tolist()
    return shape, colour, ground


@torch.no_grad()
def reconstructions(base: DiffusionBase, pictures: list[Image.Image]) -> list[Image.Image]:
    """The pictures after the base's VAE has encoded and decoded them."""
    images: list[Image.Image] = []
    for first in range(0, len(pictures), VAE_BATCH):
        rows = np.stack([np.asarray(p) for p in pictures[first : first + VAE_BATCH]])
        clean = to_unit(torch.from_numpy(rows).permute(0, 3, 1, 2))
        latents = base.scale_latents(base.encode_pictures(clean).mean)
        images += to_images(base.decode_latents(latents))
    return images


def near_misses() -> dict[str, CreatureLook]:
    """Creatures that differ from the character in one trait."""
    look = CHARACTER_LOOK
    return {
        "in blue": replace(look, colour=PALETTE["blue"]),
        "in green": replace(look, colour=PALETTE["green"]),
        "without stripes": replace(look, stripes=None),
        "with red stripes": replace(look, stripes=PALETTE["red"]),
        "without antennae": replace(look, antennae=None),
        "without feet": replace(look, feet=None),
        "with black antennae and feet": replace(
            look, antennae=PALETTE["black"], feet=PALETTE["black"]
        ),
    }


def drawn_characters(count: int, seed: int, look: CreatureLook = CHARACTER_LOOK) -> Pairs:
    """The character, or another look, on every background in turn."""
    if look is CHARACTER_LOOK:
        pairs = character_set(seed, PICTURE_PX, count)
        return [(picture, caption.split()[-2]) for picture, caption in pairs]
    rng = np.random.default_rng(seed)
    return [(p, b) for p, b in (_painted(rng, look, i, list(PALETTE)) for i in range(count))]


def drawn_pairs(count: int, seed: int, looks: tuple[CreatureLook, CreatureLook]) -> Pairs:
    """Two looks side by side on every ground in turn, on pictures twice as wide."""
    rng = np.random.default_rng(seed)
    grounds = list(PALETTE)
    pairs: Pairs = []
    for index in range(count):
        halves = [_painted(rng, look, index, grounds)[0] for look in looks]
        wide = Image.new("RGB", (2 * PICTURE_PX, PICTURE_PX))
        for number, half in enumerate(halves):
            wide.paste(half, (number * PICTURE_PX, 0))
        pairs.append((wide, grounds[index % len(grounds)]))
    return pairs


def stained(pairs: Pairs) -> Pairs:
    """Wide pictures whose left figure has a quarter in the body colour of the right one."""
    made = []
    for picture, background in pairs:
        pixels = np.asarray(picture).copy()
        left = figure_of(pixels[:, :PICTURE_PX].astype(np.float64))
        columns = np.flatnonzero(np.cumsum(left.sum(0)) <= left.sum() // 4)
        stain = left & (np.arange(PICTURE_PX) <= columns.max())
        pixels[:, :PICTURE_PX][stain] = SECOND_LOOK.colour
        made.append((Image.fromarray(pixels), background))
    return made


def drawn_mixes(count: int, seed: int) -> Pairs:
    """The character in the ink style: what an ideal composition would show."""
    rng = np.random.default_rng(seed)
    grounds = _ink_grounds()
    return [_painted(rng, CHARACTER_LOOK, index, grounds, INK_STYLE) for index in range(count)]


def drawn_inks(count: int, seed: int) -> list[tuple[Image.Image, str, Scene]]:
    """Shapes in the ink style, each in turn, on coloured grounds; no black, which hides ink."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        background = str(rng.choice(_ink_grounds()))
        colours = [name for name in PALETTE if name not in (background, "black")]
        shape = list(SHAPES)[index % len(SHAPES)]
        scene = make_scene(rng, shape, str(rng.choice(colours)), background, "big")
        scene = shrunk(scene)
        made.append((paint_scene(scene, rng, finish=INK_STYLE), background, scene))
    return made


def drawn_scenes(count: int, seed: int) -> Pairs:
    """The base's own world."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, creature_share=0.5) for _ in range(count)]
    return [(paint_scene(scene, rng), scene.background) for scene in scenes]


def drawn_styles(count: int, seed: int) -> Pairs:
    """The finishes that the base does know; black could pass for a line."""
    rng = np.random.default_rng(seed)
    pairs: Pairs = []
    while len(pairs) < count:
        scene = random_scene(rng)
        if scene.colour != "black":
            pairs.append((paint_styled(scene, rng)[0], scene.background))
    return pairs


def unpaled(inks: list[tuple[Image.Image, str, Scene]]) -> Pairs:
    """Ink pictures whose ground is put back to the full colour."""
    pairs = []
    for picture, background, _ in inks:
        pixels = pixels_of(picture)
        ground = PALETTE[background]
        pixels[distance(pixels, pale(ground)) < PALED_DISTANCE] = ground
        pairs.append((Image.fromarray(pixels.astype(np.uint8)), background))
    return pairs


def lineless(count: int, seed: int) -> Pairs:
    """Plain scenes whose ground is paled, but which have no line; black could pass for one."""
    rng = np.random.default_rng(seed)
    pairs: Pairs = []
    while len(pairs) < count:
        scene = random_scene(rng, creature_share=0.0)
        if scene.colour == "black":
            continue
        pixels = pixels_of(paint_scene(scene, rng))
        ground = PALETTE[scene.background]
        pixels[distance(pixels, ground) < PALED_DISTANCE] = pale(ground)
        pairs.append((Image.fromarray(pixels.astype(np.uint8)), scene.background))
    return pairs


def _ink_grounds() -> list[str]:
    return [name for name in PALETTE if name not in NO_INK_GROUNDS]


def _painted(
    rng: np.random.Generator,
    look: CreatureLook,
    index: int,
    grounds: list[str],
    finish: Finish = PLAIN,
) -> tuple[Image.Image, str]:
    background = grounds[index % len(grounds)]
    scene = make_scene(rng, "creature", "blue", background, "big", look)
    radius = float(rng.uniform(*CHARACTER_RADIUS))
    scene = replace(scene, placement=replace(scene.placement, radius=radius))
    return paint_scene(scene, rng, finish=finish), background
