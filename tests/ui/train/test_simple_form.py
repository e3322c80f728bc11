"""The short form: presets fill it, what is wrong stands at its field, the command says the same."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from tests.ui.made_runs import picture
from trainers.dreambooth_lora import parse
from trainers.layering import build_spec, preset_names, read_preset
from ui.runs.tab import DEMO_PRESET
from ui.train import form, simple_form
from ui.train.form import Texts


@pytest.fixture
def texts() -> Texts:
    """The form as the demo preset fills it."""
    return form.to_texts(simple_form.start_of(DEMO_PRESET))


def test_the_short_form_shows_settings_that_there_are() -> None:
    known = {field.name for field in form.fields()}
    shown = [field.name for field in simple_form.FIELDS]
    assert set(shown) <= known and len(set(shown)) == 11  # and the preset: twelve
    assert {field.also for field in simple_form.FIELDS} <= known | {""}


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_fills_the_form(preset: str) -> None:
    spec = simple_form.start_of(preset)
    wanted = build_spec([read_preset(preset)])
    assert spec.save.name
    assert spec.model_copy(update={"save": wanted.save}) == wanted


def test_pictures_of_ones_own_are_still_to_be_named() -> None:
    assert simple_form.begin("sdxl-style")["data.folder"] == ""
    assert simple_form.begin("demo-style")["data.folder"] == "bundled:demo_style"
    assert "data.folder" in simple_form.problems(simple_form.begin("sdxl-style"))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("optim.lr_unet", "fast", "Must be a valid number."),
        ("optim.lr_unet", "-1", "Must be greater than or equal to 0."),
        ("optim.lr_unet", "nan", "Must"),
        ("schedule.steps", "0", "Must be greater than or equal to 1."),
        ("schedule.steps", "12.5", "Must be a valid integer."),
        ("schedule.steps", "", "schedule needs a length"),
        ("adapter.rank", "9999999", "Must be less than or equal to 1024."),
        ("adapter.rank", "", "Must be a valid integer."),
        ("adapter.ranks", "mid", "pattern = number"),
        ("adapter.ranks", "mid = 0", "Must be greater than or equal to 1."),
        ("adapter.lokr_factor", "4", "for adapter.kind lokr only"),
        ("optim.lora_plus_ratio", "x", "Must be a valid number."),
        ("save.name", "../up", "must be a plain file name"),
        ("save.name", "a\x00b", "must be a plain file name"),
        ("model.base", "", "Choose a base model."),
        ("model.base", "/no/such/model", "there is no such folder"),
        ("data.folder", "/no/such/pictures", "there is no such folder"),
        ("data.folder", "", "Type the folder"),
        ("no.such", "1", "is not a setting"),
    ],
)
def test_each_problem_stands_at_its_field(
    texts: Texts, field: str, value: str, expected: str
) -> None:
    changed = {**texts, field: value}
    found = simple_form.problems(changed)
    assert list(found) == [field] and expected in found[field]
    with pytest.raises(InputError):
        simple_form.to_spec(changed)


def test_several_problems_are_told_at_once(texts: Texts) -> None:
    names = {"optim.lr_unet", "schedule.steps", "adapter.rank"}
    assert simple_form.problems({**texts, **dict.fromkeys(names, "x")}).keys() == names


def test_a_rule_over_sections_is_told_at_a_field(texts: Texts) -> None:
    found = simple_form.problems({**texts, "optim.max_norm": "1", "adapter.kind": "loha"})
    assert list(found) == ["optim.max_norm"]


@pytest.mark.parametrize("kind", ["prodigy", "schedulefree", "lion", "adafactor"])
def test_another_optimizer_begins_afresh(texts: Texts, kind: str) -> None:
    chosen = {**texts, "optim.kind": kind}
    fresh = {**chosen, **simple_form.afresh(chosen, "optim.kind")}
    assert not simple_form.problems(fresh)
    assert simple_form.to_spec(fresh).optim == build_spec([{"optim": {"kind": kind}}]).optim
    assert fresh["schedule.steps"] == texts["schedule.steps"]


@pytest.mark.parametrize("kind", ["dora", "rslora", "loha", "lokr"])
def test_another_adapter_keeps_its_size_and_place(texts: Texts, kind: str) -> None:
    chosen = {**texts, "adapter.kind": kind, "adapter.rank_dropout": "0.1"}
    fresh = {**chosen, **simple_form.afresh(chosen, "adapter.kind")}
    assert not simple_form.problems(fresh)
    for name in ("adapter.rank", "adapter.alpha", "adapter.targets"):
        assert fresh[name] == texts[name]


def test_the_copied_command_gives_the_same_settings(texts: Texts, tmp_path: Path) -> None:
    folder = tmp_path / "my pictures; rm -rf $HOME 'x'"
    picture(folder / "a.png", 1, "#112233")
    changed = {
        **texts,
        "data.folder": str(folder),
        "save.name": "it's mine",
        "schedule.steps": "30",
    }
    words = shlex.split(simple_form.command(simple_form.to_spec(changed), DEMO_PRESET))
    assert words[:3] == ["python", "-m", "trainers.dreambooth_lora"]
    assert parse(words[3:]).runs[0].spec == simple_form.to_spec(changed)


def test_the_copied_command_is_short_where_the_preset_says_the_rest(texts: Texts) -> None:
    spec = simple_form.to_spec({**texts, "schedule.steps": "30"})
    words = shlex.split(simple_form.command(spec, DEMO_PRESET, "/elsewhere/runs"))
    assert parse(words[3:]).runs[0].spec == spec
    assert "--preset" in words and len(words) < 20
    assert words[words.index("--output_dir") + 1].startswith("/elsewhere/runs/")


@pytest.mark.parametrize(("name", "text"), [("data.trigger", ""), ("optim.kind", "lion")])
def test_a_command_that_takes_something_back_says_it_all(
    texts: Texts, name: str, text: str
) -> None:
    changed = {**texts, name: text}
    if name.endswith("kind"):
        changed |= simple_form.afresh(changed, name)
    spec = simple_form.to_spec(changed)
    words = shlex.split(simple_form.command(spec, DEMO_PRESET))
    assert "--preset" not in words
    assert parse(words[3:]).runs[0].spec == spec


def test_paths_are_stored_in_full(
    texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "cats/a.png", 1, "#112233")
    monkeypatch.chdir(tmp_path)
    spec = simple_form.to_spec({**texts, "data.folder": "cats", "model.base": " cats "})
    assert spec.data.folder == spec.model.base == str(tmp_path / "cats")
