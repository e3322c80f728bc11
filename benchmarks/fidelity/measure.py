"""Draw with adapters on the base and score what comes out.

Pictures are drawn by the toolkit itself. A seed gives every prompt its own noise, the same with
and without an adapter, so that forgetting is a paired comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, pstdev
from typing import TYPE_CHECKING

import torch
from PIL import Image

from assets.demo_making.reader import read_picture
from assets.demo_making.scenes import CHARACTER_WORD, SECOND_WORD
from assets.demo_making.score import GUIDANCE, SAMPLE_STEPS
from lora_diffusion.composition.live import Composition
from lora_diffusion.composition.regions import Region
from lora_diffusion.families import DiffusionBase
from lora_diffusion.formats import load_adapter
from lora_diffusion.generate import PictureSpec, draw
from lora_diffusion.injection import attach
from lora_diffusion.randomness import derive_seed

from .character import CHARACTER, Character, likeness
from .composition import read_mix
from .ink import read_drawing
from .pair import MAX_STRANGER, read_halves
from .prompts import (
    Prompt,
    character_prompts,
    mix_prompts,
    other_prompts,
    pair_prompts,
    style_prompts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Draw = Callable[[Sequence[Prompt], int], list[Image.Image]]  # (prompts, seed) -> pictures


@dataclass
class Tally:
    """Named figures, one value a run."""

    unit: dict[str, int] = field(default_factory=dict)  # 0: a share, else counted of so many
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, hits: Sequence[bool | float], as_count: bool = True) -> None:
        """One run's figure: how many of `hits`, or their mean share."""
        self.unit[name] = len(hits) if as_count else 0
        self.values.setdefault(name, []).append(
            float(sum(hits)) if as_count else float(mean(map(float, hits)))
        )

    def lines(self) -> list[str]:
        """Mean, spread (population standard deviation) and every run's value."""
        out = []
        for name, values in self.values.items():
            of = self.unit[name]
            scale, suffix = (1.0, f"/{of}") if of else (100.0, " %")
            runs = " ".join(f"{scale * value:.0f}" for value in values)
            middle, spread = scale * mean(values), scale * pstdev(values)
            out.append(f"{name:<44} {middle:5.1f}{suffix:<4} ± {spread:4.1f}   [{runs}]")
        return out


@contextmanager
def adapters_on(base: DiffusionBase, weighted: Sequence[tuple[Path, float]]) -> Iterator[None]:
    """The base with adapters at weights, merged for speed; taken off again at the end."""
    with ExitStack() as stack:
        for number, (path, weight) in enumerate(weighted):
            handle = attach(base.parts, load_adapter(path), name=f"adapter{number}")
            stack.callback(handle.remove)
            handle.scale = weight
            handle.merge()
        yield


def drawer(
    base: DiffusionBase, guidance: float = GUIDANCE, composition: Composition | None = None
) -> Draw:
    """Draws one picture for each prompt, from noise that depends on (seed, index) alone."""

    def draw_prompts(prompts: Sequence[Prompt], seed: int) -> list[Image.Image]:
        specs = [_spec(base, guidance, p.text, seed, index) for index, p in enumerate(prompts)]
        return composition.draw(specs) if composition else draw(base, specs)

    return draw_prompts


def pair_drawer(base: DiffusionBase, guidance: float, composition: Composition) -> Draw:
    """As `drawer`, twice as wide: the composition's first adapter left, its second one right.

    Each half is a window: drawn as a picture of its own, from the prompt with its own trigger word.
    """
    left = torch.zeros(base.native_size_px, 2 * base.native_size_px)
    left[:, : base.native_size_px] = 1.0
    masks = dict(zip(composition.names, (left, 1 - left), strict=True))

    def draw_pairs(prompts: Sequence[Prompt], seed: int) -> list[Image.Image]:
        pictures = []
        for index, prompt in enumerate(prompts):
            texts = prompt.text, prompt.text.replace(CHARACTER_WORD, SECOND_WORD)
            for (name, mask), text in zip(masks.items(), texts, strict=True):
                composition.set_region(name, Region(name, mask, text, window=True))
            spec = _spec(base, guidance, prompt.text, seed, index, widths=2)
            pictures += composition.draw([spec])
        return pictures

    return draw_pairs


def _spec(
    base: DiffusionBase, guidance: float, text: str, seed: int, index: int, widths: int = 1
) -> PictureSpec:
    return PictureSpec(
        prompt=text,
        seed=derive_seed("fidelity", seed, index),
        sampling_steps=SAMPLE_STEPS,
        cfg=guidance,
        width_px=widths * base.native_size_px,
        height_px=base.native_size_px,
    )


def others_right(
    prompts: Sequence[Prompt], pictures: Sequence[Image.Image]
) -> dict[str, list[bool]]:
    """For shape prompts: whether shape, colour, background, and all of them, are as asked."""
    right: dict[str, list[bool]] = {"shape": [], "colour": [], "background": [], "all right": []}
    for prompt, picture in zip(prompts, pictures, strict=True):
        reading = read_picture(picture)
        row = (
            (False, False, False)
            if reading is None
            else (
                reading.shape == prompt.shape,
                reading.colour == prompt.colour,
                reading.background == prompt.background,
            )
        )
        for name, value in zip(right, (*row, all(row)), strict=True):
            right[name].append(value)
    return right


def measure_base(draw: Draw, seed: int, tally: Tally) -> list[Image.Image]:
    """Adherence, and how often the base by itself passes the adapters' scores."""
    others = other_prompts()
    pictures = draw(others, seed)
    for name, hits in others_right(others, pictures).items():
        tally.add(f"{name} on {len(others)} prompts", hits, as_count=False)
    creatures = character_prompts(None)
    drawn = draw(creatures, seed)
    scenes = list(zip([*others, *creatures], [*pictures, *drawn], strict=True))
    tally.add("base pictures that pass as the character", [likeness(p).strict for _, p in scenes])
    tally.add("base pictures that leak the character", [likeness(p).leak for _, p in scenes])
    inked = [read_drawing(p, q.background).strict for q, p in scenes]
    tally.add("base pictures that pass as the style", inked)
    return [*drawn, *pictures[:32]]


def measure_character(
    draw: Draw, seed: int, tally: Tally, who: Character = CHARACTER
) -> list[Image.Image]:
    """Likeness with the trigger, and traces of it without."""
    prompts = character_prompts(CHARACTER_WORD if who is CHARACTER else SECOND_WORD)
    pictures = draw(prompts, seed)
    found = [likeness(picture, who) for picture in pictures]
    tally.add("strict likeness", [like.strict for like in found])
    for part in found[0].parts:
        tally.add(f"  {part} (mean share)", [like.parts[part] for like in found], as_count=False)
    backgrounds = [
        (reading := read_picture(picture)) is not None and reading.background == prompt.background
        for prompt, picture in zip(prompts, pictures, strict=True)
    ]
    tally.add("background as asked", backgrounds)
    plain = draw(character_prompts(None), seed)
    tally.add("leak without the trigger", [likeness(picture, who).leak for picture in plain])
    return [*pictures, *plain]


def measure_style(draw: Draw, seed: int, tally: Tally) -> list[Image.Image]:
    """The style with the trigger, on known and held-out shapes, and traces of it without."""
    prompts = style_prompts()
    pictures = draw(prompts, seed)
    read = [read_drawing(p, q.background) for q, p in zip(prompts, pictures, strict=True)]
    pairs = list(zip(prompts, read, strict=True))
    tally.add("strict style", [d.strict for d in read])
    tally.add("  of these on held-out shapes", [d.strict for q, d in pairs if q.held_out])
    tally.add("  ground paled", [d.paled for d in read])
    tally.add("  closed thick line (mean share)", [d.line for d in read], as_count=False)
    tally.add("shape as asked", [d.shape == q.shape for q, d in pairs], as_count=False)
    tally.add("colour as asked", [d.colour == q.colour for q, d in pairs], as_count=False)
    tally.add("background as asked", [d.background == q.background for q, d in pairs])
    without = style_prompts(trigger=False)
    plain = draw(without, seed)
    leaks = [read_drawing(p, q.background) for q, p in zip(without, plain, strict=True)]
    tally.add("leak without the trigger", [d.strict for d in leaks])
    return [*pictures, *plain]


def measure_mix(draw: Draw, seed: int, tally: Tally) -> list[Image.Image]:
    """Both at once."""
    prompts = mix_prompts()
    pictures = draw(prompts, seed)
    read = [read_mix(p, q.background) for q, p in zip(prompts, pictures, strict=True)]
    tally.add("strict composition", [mix.strict for mix in read])
    tally.add("  the ink style", [mix.drawing.strict for mix in read])
    tally.add("  the character inside the line", [mix.character for mix in read])
    tally.add("strict likeness in the base's own style", [likeness(p).strict for p in pictures])
    return pictures


def measure_pair(draw: Draw, seed: int, tally: Tally) -> list[Image.Image]:
    """Two characters side by side, drawn by `pair_drawer`."""
    prompts = pair_prompts()
    pictures = draw(prompts, seed)
    halves = [read_halves(picture) for picture in pictures]
    tally.add("both characters, without bleed", [a.strict and b.strict for a, b in halves])
    for index, name in enumerate(("first", "second")):
        tally.add(f"  the {name}, without bleed", [half[index].strict for half in halves])
        tally.add(f"  the {name}, strict likeness", [half[index].like.strict for half in halves])
        tally.add(
            f"  bleed into the {name}", [half[index].stranger > MAX_STRANGER for half in halves]
        )
    return pictures


def measure_others(draw: Draw, seed: int, tally: Tally, before: float) -> None:
    """Adherence kept on other prompts, and the points lost against the base's share `before`."""
    prompts = other_prompts()
    right = others_right(prompts, draw(prompts, seed))
    for name, hits in right.items():
        tally.add(f"{name} on {len(prompts)} other prompts", hits, as_count=False)
    lost = before - mean(map(float, right["all right"]))
    tally.add("forgetting, points of all right", [lost], as_count=False)
