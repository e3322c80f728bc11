"""The scorer tells right from wrong, before it may judge an adapter."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from assets.demo_making.figures import PALETTE
from assets.demo_making.scenes import SECOND_WORD, SPARE_WORDS
from benchmarks.fidelity import validation
from benchmarks.fidelity.character import CHARACTER, SECOND, Character, ideal_parts, likeness
from benchmarks.fidelity.ink import read_drawing
from benchmarks.fidelity.judge import composition
from benchmarks.fidelity.measure import (
    Tally,
    adapters_on,
    drawer,
    others_right,
    pair_drawer,
)
from benchmarks.fidelity.pair import read_halves
from benchmarks.fidelity.pixels import box_of, reached_from_border
from benchmarks.fidelity.prompts import (
    OTHERS,
    Prompt,
    character_prompts,
    mix_prompts,
    other_prompts,
    pair_prompts,
    style_prompts,
)
from lora_diffusion.composition.live import compose
from lora_diffusion.families import DiffusionBase, load_base
from lora_diffusion.injection import AdapterConfig, inject

ROOT = Path(__file__).parents[2]
COUNT = 14


@pytest.fixture(scope="module")
def base() -> DiffusionBase:
    return load_base("bundled:demo_base")


@pytest.fixture(scope="module")
def made() -> list[validation.Case]:
    return validation.cases(COUNT, seed=3)


def test_scores_hold_on_drawn_truth(made: list[validation.Case]) -> None:
    wrong = [str(outcome) for outcome in validation.check(made) if not outcome.right]
    assert not wrong


def test_scores_hold_on_vae_reconstructions(
    made: list[validation.Case], base: DiffusionBase
) -> None:
    positive = [case for case in made if case.low > 0 or "mixes" in case.name]
    assert len(positive) >= 5
    wrong = [str(outcome) for outcome in validation.check(positive, base) if not outcome.right]
    assert not wrong


def test_a_score_that_does_not_hold_is_seen() -> None:
    plain = validation.drawn_scenes(5, seed=1)
    case = validation.Case("all scenes", plain, validation.strict_character, low=0.98)
    (outcome,) = validation.check([case])
    assert not outcome.right
    assert "WRONG" in str(outcome)


def test_ink_pictures_are_read_right() -> None:
    assert min(validation.ink_readings(40, seed=3)) >= 0.95


def test_noise_and_emptiness_pass_nothing() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8))
    for picture in (noise, Image.new("RGB", (64, 64), PALETTE["red"])):
        assert not likeness(picture).strict
        assert not read_drawing(picture, "red").strict
        assert not validation.strict_mix(picture, "red")


def test_an_open_line_encloses_nothing() -> None:
    picture, background, _ = validation.drawn_inks(1, seed=2)[0]
    assert read_drawing(picture, background).strict
    pixels = np.asarray(picture).copy()
    pixels[:, 28:36] = pixels[0, 0]  # a slit through line and fill
    assert read_drawing(Image.fromarray(pixels), background).line < 0.9


@pytest.mark.parametrize(("who", "count"), [(CHARACTER, 7), (SECOND, 6)])
def test_the_ideal_has_parts_of_some_size(who: Character, count: int) -> None:
    parts = ideal_parts(who)
    assert len(parts) == count
    assert min(mask.sum() for _, mask in parts.values()) >= 40


def test_a_pair_names_the_half_that_is_wrong() -> None:
    looks = validation.CHARACTER_LOOK, validation.SECOND_LOOK
    pairs = validation.drawn_pairs(1, seed=4, looks=looks)
    assert [half.strict for half in read_halves(pairs[0][0])] == [True, True]
    ((stained, _),) = validation.stained(pairs)
    left, right = read_halves(stained)
    assert left.stranger > 0.1
    assert (left.strict, right.strict) == (False, True)


def test_flood_stops_at_walls() -> None:
    free = np.ones((7, 7), dtype=bool)
    free[1:6, 1] = free[1:6, 5] = free[1, 1:6] = free[5, 1:6] = False
    reached = reached_from_border(free)
    assert reached[0, 0]
    assert not reached[3, 3]
    assert box_of(~free) == (slice(1, 6), slice(1, 6))
    assert box_of(np.zeros((4, 4), dtype=bool)) is None


def test_prompts_were_never_shown_in_training() -> None:
    shown = {path.read_text(encoding="utf-8").strip() for path in ROOT.glob("assets/demo_*/*.txt")}
    for name in ("demo-character", "demo-style"):
        preset = tomllib.loads((ROOT / "presets" / f"{name}.toml").read_text(encoding="utf-8"))
        shown |= set(preset["data"]["class_prompts"])
    assert len(shown) > 30
    asked = [*character_prompts(), *character_prompts(None), *style_prompts(), *mix_prompts()]
    asked += [*pair_prompts(), *character_prompts(SECOND_WORD)]
    asked += [*style_prompts(False), *other_prompts()]
    assert not shown & {prompt.text for prompt in asked}


def test_prompts_without_trigger_have_none() -> None:
    for prompt in [*character_prompts(None), *style_prompts(False), *other_prompts()]:
        assert not set(prompt.text.split()) & set(SPARE_WORDS)
    assert sum(prompt.held_out for prompt in style_prompts()) == 8
    assert len(other_prompts()) == OTHERS == 96


def test_tally_gives_mean_and_spread() -> None:
    tally = Tally()
    tally.add("hits", [True, False, True])
    tally.add("hits", [True, True, True])
    tally.add("share", [0.5, 1.0], as_count=False)
    assert "  2.5/3" in tally.lines()[0]
    assert "±  0.5   [2 3]" in tally.lines()[0]
    assert " 75.0 %" in tally.lines()[1]


def test_others_count_only_what_was_asked() -> None:
    asked = Prompt("", "red", "circle", "blue")
    scene = validation.make_scene(np.random.default_rng(0), "circle", "blue", "red", "big")
    picture = validation.paint_scene(scene, np.random.default_rng(0))
    right = others_right([asked, Prompt("", "red", "star", "blue")], [picture, picture])
    assert right == {
        "shape": [True, False],
        "colour": [True, True],
        "background": [True, True],
        "all right": [True, False],
    }


def test_adapters_leave_no_trace(base: DiffusionBase, tmp_path: Path) -> None:
    prompt = [Prompt("a red circle on a blue background", "blue")]
    (before,) = drawer(base)(prompt, 0)
    _made_adapter(base, tmp_path / "made.safetensors", 0.3)
    with adapters_on(base, [(tmp_path / "made.safetensors", 1.0)]):
        (changed,) = drawer(base)(prompt, 0)
    (after,) = drawer(base)(prompt, 0)
    assert changed.tobytes() != before.tobytes()
    assert after.tobytes() == before.tobytes()


def test_the_judge_of_a_weight_search_orders_mixes_plain_characters_and_scenes():
    mixes = validation.drawn_mixes(6, seed=3)
    plain = validation.drawn_characters(6, seed=3)
    scores = [
        composition([p for p, _ in pairs], [f"a creature on a {b} background" for _, b in pairs])
        for pairs in (mixes, plain, validation.drawn_scenes(6, seed=3))
    ]
    assert scores[0] > 0.95
    assert scores[0] > scores[1] + 0.5
    assert 0 <= scores[2] < 0.2


def test_a_pair_is_drawn_half_by_half(base: DiffusionBase, tmp_path: Path) -> None:
    prompts = pair_prompts()[:1]
    file = _made_adapter(base, tmp_path / "made.safetensors", 0.05)
    pictures = []
    for weights in ((0.0, 0.0), (1.0, 0.0)):
        with compose(base, [(file, weight) for weight in weights]) as composition:
            (picture,) = pair_drawer(base, 2.0, composition)(prompts, 0)
        pictures.append(np.asarray(picture, dtype=np.float64))
    assert pictures[0].shape == (64, 128, 3)
    changed = np.abs(pictures[1] - pictures[0]).mean((0, 2))  # [128], by column
    assert changed[:64].mean() > 2 * changed[64:].mean()


def _made_adapter(base: DiffusionBase, path: Path, strength: float) -> Path:
    source = torch.Generator().manual_seed(0)
    handle = inject(base.parts, AdapterConfig(rank=2))
    for parameter in handle.parameters():
        parameter.data.normal_(0, strength, generator=source)
    handle.save(path)
    handle.remove()
    return path
