"""What the scorer asks for. No prompt here is a caption or a class prompt of a demo preset.

Every prompt names a size or another trait.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assets.demo_making.figures import PALETTE, SHAPES
from assets.demo_making.scenes import CHARACTER_WORD, RADIUS, STYLE_SHAPES, STYLE_WORD

from .ink import NO_INK_GROUNDS

COUNT = 16  # pictures of a strict score
OTHERS = 96  # prompts that ask for something else: 12 a shape
SEED = 5
CHARACTER_WORDINGS = (
    "a big {} creature on a {} background",
    "a {} creature with feet on a {} background",
    "a striped {} creature on a {} background",
    "a {} creature with antennae on a {} background",
)


@dataclass(frozen=True)
class Prompt:
    """A prompt and what it asks for."""

    text: str
    background: str
    shape: str = "creature"
    colour: str = ""

    @property
    def held_out(self) -> bool:
        """Whether the style set does not show the shape."""
        return self.shape not in STYLE_SHAPES


def character_prompts(trigger: str | None = CHARACTER_WORD) -> list[Prompt]:
    """Every background in turn; without a trigger a colour takes its place."""
    rng, names = np.random.default_rng(SEED), list(PALETTE)
    prompts = []
    for index in range(COUNT):
        background = names[index % len(names)]
        colour = str(rng.choice([name for name in names if name != background]))
        wording = CHARACTER_WORDINGS[index % len(CHARACTER_WORDINGS)]
        text = wording.format(trigger or colour, background)
        prompts.append(Prompt(text, background, colour=colour))
    return prompts


def style_prompts(trigger: bool = True) -> list[Prompt]:
    """Each shape twice, four of them not in the style set; no black, which would hide the ink."""
    rng = np.random.default_rng(SEED)
    grounds = [name for name in PALETTE if name not in NO_INK_GROUNDS]
    prompts = []
    for index in range(COUNT):
        shape = list(SHAPES)[index % len(SHAPES)]
        background = grounds[index % len(grounds)]
        colour = str(rng.choice([n for n in PALETTE if n not in (background, "black")]))
        text = f"a big {colour} {shape} on a {background} background"
        prompts.append(
            Prompt(f"{STYLE_WORD} style, {text}" if trigger else text, background, shape, colour)
        )
    return prompts


def mix_prompts() -> list[Prompt]:
    """The character in the style."""
    grounds = [name for name in PALETTE if name not in NO_INK_GROUNDS]
    wordings = CHARACTER_WORDINGS
    return [
        Prompt(
            f"{STYLE_WORD} style, "
            + wordings[index % len(wordings)].format(CHARACTER_WORD, grounds[index % len(grounds)]),
            grounds[index % len(grounds)],
        )
        for index in range(COUNT)
    ]


def pair_prompts() -> list[Prompt]:
    """Both characters, by the first one's word: wordings that are true of either."""
    grounds, wordings = list(PALETTE), CHARACTER_WORDINGS[:3]
    return [
        Prompt(
            wordings[index % len(wordings)].format(CHARACTER_WORD, grounds[index % len(grounds)]),
            grounds[index % len(grounds)],
        )
        for index in range(COUNT)
    ]


def other_prompts() -> list[Prompt]:
    """Shapes in turn, in both sizes: what an adapter must not make the base forget."""
    rng = np.random.default_rng(SEED)
    prompts = []
    for index in range(OTHERS):
        shape = list(SHAPES)[index % len(SHAPES)]
        colour, background = (str(name) for name in rng.permutation(list(PALETTE))[:2])
        size = list(RADIUS)[index // len(SHAPES) % len(RADIUS)]
        text = f"a {size} {colour} {shape} on a {background} background"
        prompts.append(Prompt(text, background, shape, colour))
    return prompts
