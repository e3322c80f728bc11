"""The simple form becomes settings through the one schema."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from tests.ui.made_runs import picture
from trainers.dreambooth_lora import parse
from trainers.layering import build_spec, read_preset
from ui import form
from ui.form import Answers
from ui.runs_tab import DEMO_PRESET


@pytest.fixture
def answers() -> Answers:
    """The form as the demo preset fills it."""
    return _filled(DEMO_PRESET)


def _filled(preset: str) -> Answers:
    at = form.start_of(preset)
    return Answers(preset, at.pictures, "", at.base, at.name, at.trigger, at.steps, at.rank, at.lr)


@pytest.mark.parametrize("preset", [name for _, name in form.preset_choices()])
def test_every_preset_fills_the_form_and_comes_back_unchanged(preset: str) -> None:
    at = form.start_of(preset)
    filled = _filled(preset)
    wanted = build_spec([read_preset(preset)])
    if at.pictures != form.OWN_PICTURES:
        spec = form.to_spec(filled)
        assert spec.model_copy(update={"save": wanted.save}) == wanted
        assert spec.save.name == at.name


def test_the_demos_come_first() -> None:
    labels = [label for label, _ in form.preset_choices()]
    assert labels[0] == "Demo character"
    assert all("-" not in label and "_" not in label for label in labels)


def test_rate_and_alpha_keep_the_presets_proportions(answers: Answers) -> None:
    before = form.to_spec(answers)
    after = form.to_spec(replace(answers, lr=str(before.optim.lr_unet / 2), rank="4"))
    assert after.optim.lr_text == pytest.approx(before.optim.lr_text / 2)
    assert after.adapter.rank == 4
    if before.adapter.alpha is not None:
        assert after.adapter.alpha == pytest.approx(before.adapter.alpha * 4 / before.adapter.rank)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("lr", "fast", "Must be a valid number."),
        ("lr", "-1", "Must be greater than or equal to 0."),
        ("lr", "nan", "Must"),
        ("steps", "0", "Must be greater than or equal to 1."),
        ("steps", "12.5", "Must be a valid integer."),
        ("steps", "", "Must be a valid integer."),
        ("rank", "9999999", "Must be less than or equal to 1024."),
        ("rank", "", "Must be a valid integer."),
        ("name", "../up", "must be a plain file name"),
        ("name", "a\x00b", "must be a plain file name"),
        ("base", "", "Choose a base model."),
        ("base", "/no/such/model", "there is no such folder"),
        ("folder", "/no/such/pictures", "there is no such folder"),
        ("folder", "", "Type the folder"),
    ],
)
def test_each_problem_stands_at_its_field(
    answers: Answers, field: str, value: str, expected: str
) -> None:
    changed = replace(answers, **{field: value})
    if field == "folder":
        changed = replace(changed, pictures=form.OWN_PICTURES)
    found = form.problems(changed)
    assert list(found) == [field] and expected in found[field]
    with pytest.raises(InputError):
        form.to_spec(changed)


def test_several_problems_are_told_at_once(answers: Answers) -> None:
    found = form.problems(replace(answers, lr="x", steps="x", rank="x"))
    assert set(found) == {"lr", "steps", "rank"}


def test_an_unknown_preset_is_a_problem(answers: Answers) -> None:
    assert "preset" in form.problems(replace(answers, preset="../../etc"))


def test_the_copied_command_gives_the_same_settings(answers: Answers, tmp_path: Path) -> None:
    folder = tmp_path / "my pictures; rm -rf $HOME 'x'"
    picture(folder / "a.png", 1, "#112233")
    changed = replace(
        answers, pictures=form.OWN_PICTURES, folder=str(folder), name="it's mine", steps="30"
    )
    words = shlex.split(form.command(changed))
    assert words[:3] == ["python", "-m", "trainers.dreambooth_lora"]
    assert parse(words[3:]).spec == form.to_spec(changed)
    # The demo's own words are gone, and a preset can't be told to leave something out.
    assert "--preset" not in words
    assert not form.to_spec(changed).data.class_prompts
    assert not form.to_spec(changed).preview.prompts


def test_the_copied_command_is_short_where_the_preset_says_the_rest(answers: Answers) -> None:
    changed = replace(answers, steps="30")
    words = shlex.split(form.command(changed, "/elsewhere/runs"))
    assert parse(words[3:]).spec == form.to_spec(changed)
    assert "--preset" in words and len(words) < 20
    assert words[words.index("--output_dir") + 1].startswith("/elsewhere/runs/")


def test_a_command_that_takes_something_back_says_it_all(answers: Answers) -> None:
    changed = replace(answers, trigger="")
    words = shlex.split(form.command(changed))
    assert "--preset" not in words
    assert parse(words[3:]).spec == form.to_spec(changed)


def test_paths_are_stored_in_full(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "cats/a.png", 1, "#112233")
    monkeypatch.chdir(tmp_path)
    spec = form.to_spec(replace(answers, pictures=form.OWN_PICTURES, folder="cats", base="cats"))
    assert spec.data.folder == spec.model.base == str(tmp_path / "cats")
