"""Whole small runs that are measured: the figures, the best adapter, the early end, the resume."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lora_diffusion import load
from tests.trainers.test_bit_exact import METHODS, settings, train, train_on
from trainers import dreambooth_lora
from trainers.events import Event, read_events
from trainers.layering import build_spec, to_toml
from trainers.spec import JobSpec
from trainers.validation import loss_map

STEPS = 6


@pytest.fixture(scope="module")
def many(world, tmp_path_factory) -> dict[str, Any]:
    """The world with more pictures, of two sizes, one of them masked out at one half."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(6):
        size = (64, 64) if number % 2 else (96, 64)
        Image.new("RGB", size, (40 * number, 90, 200 - 30 * number)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"sks, square {number}", encoding="utf-8")
    changed = copy.deepcopy(world)
    changed["data"]["folder"] = str(folder)
    return changed


def make_spec(
    many: dict[str, Any], method: str = "adamw", steps: int = STEPS, **validation: Any
) -> JobSpec:
    spec = settings(many, STEPS, METHODS[method])
    chosen = {"every_steps": 2, "timesteps": 3, **validation}
    return build_spec([spec.model_dump(exclude_none=True), {"validation": chosen}])


def events(folder: Path, kind: str) -> list[Event]:
    return [e for e in read_events(folder / "events.jsonl")[0] if e.kind == kind]


@pytest.mark.parametrize("method", METHODS)
def test_measuring_changes_no_bit_of_the_adapter(many, tmp_path, method):
    off = settings(many, STEPS, METHODS[method])
    on = make_spec(many, method, hold_out=0)
    assert train(off, tmp_path / "off") == train(on, tmp_path / "on")
    assert len(events(tmp_path / "on", "validation")) == 4


def test_held_out_pictures_are_never_trained(many, tmp_path):
    """Whatever they show, the adapter is the same."""
    folder = tmp_path / "pictures"
    shutil.copytree(many["data"]["folder"], folder)
    data = {**many["data"], "folder": str(folder)}
    one = train(make_spec({**many, "data": data}, hold_out=2), tmp_path / "one")
    [found] = [e.body["file"] for e in events(tmp_path / "one", "validation")][-1:]
    rows = loss_map.read(tmp_path / "one" / found).of("held_out")
    assert len(rows) == 2
    for row in rows:
        (folder / row.name).unlink()
    assert train(make_spec({**many, "data": data}, hold_out=0), tmp_path / "other") == one


def test_events_and_maps_hold_the_figures(many, tmp_path):
    train(make_spec(many, hold_out=2), tmp_path / "run")
    found = [e.body for e in events(tmp_path / "run", "validation")]
    assert [b["step"] for b in found] == [0, 2, 4, 6]
    first, last = found[0], found[-1]
    assert first["loss"] == first["base_loss"]
    assert first["moved"] is first["smooth"] is None
    assert last["loss"] != last["base_loss"]
    assert last["base_loss"] == first["base_loss"]
    assert last["train_loss"] < last["base_train_loss"]
    assert last["timesteps"] == [166, 500, 833]
    assert sum(last["by_timestep"]) / 3 == pytest.approx(last["loss"], rel=1e-4)
    assert last["moved"] > 0
    assert last["leak"] > 0
    measured = loss_map.read(tmp_path / "run" / last["file"])
    assert len(measured.of("held_out")) == 2
    assert len(measured.of("trained")) == 4
    assert loss_map.mean_loss(measured.of("held_out")) == pytest.approx(last["loss"], rel=1e-4)
    for row in measured.rows:
        assert len(row.other) == len(row.empty) == 3
        assert len({row.base, row.loss, row.other, row.empty}) == 4
    with Image.open(tmp_path / "run" / last["picture"]) as picture:
        assert picture.width > 600


def test_the_best_adapter_is_kept_with_its_reason(many, tmp_path):
    spec = make_spec(many, hold_out=2)
    spec = build_spec([spec.model_dump(exclude_none=True), {"save": {"every_steps": 1}}])
    train(spec, tmp_path / "run")
    finished = events(tmp_path / "run", "finished")[0].body
    smooth = {e.body["step"]: e.body["smooth"] for e in events(tmp_path / "run", "validation")}
    wanted = min((value, step) for step, value in smooth.items() if step)[1]
    best = finished["best"]
    assert (best["step"], best["file"]) == (wanted, "exports/mine-best.safetensors")
    assert best["reason"].startswith(f"Step {wanted}: ")
    assert events(tmp_path / "run", "best")[-1].body["step"] == wanted
    name = "mine" if wanted == STEPS else f"exports/mine-step{wanted:08d}"
    kept, same = (load(tmp_path / "run" / f"{n}.safetensors") for n in ("exports/mine-best", name))
    assert all(torch.equal(kept.layers[key].up, same.layers[key].up) for key in kept.layers)
    assert [p.name for p in (tmp_path / "run").glob("*.safetensors")] == ["mine.safetensors"]


@pytest.fixture(scope="module")
def impatient(many, tmp_path_factory) -> tuple[JobSpec, Path, str]:
    """A run at such a rate that the loss on held-out pictures soon rises."""
    optim = {"lr_unet": 0.3, "lr_text": 0.0, "lr_schedule": "constant", "lr_warmup_ratio": 0.0}
    validation = {"every_steps": 1, "hold_out": 2, "patience": 2, "timesteps": 2, "max_pictures": 2}
    spec = settings(many, 12, optim)
    spec = build_spec([spec.model_dump(exclude_none=True), {"validation": validation}])
    folder = tmp_path_factory.mktemp("impatient") / "run"
    return spec, folder, train(spec, folder)


def test_a_run_ends_early_and_says_why(impatient):
    _, folder, _ = impatient
    finished = events(folder, "finished")[0].body
    assert finished["step"] < 12
    assert "validation.patience is 2" in finished["stopped_early"]
    assert finished["best"]["step"] == finished["step"] - 2
    steps = [e.body["step"] for e in events(folder, "step")]
    assert steps == list(range(1, finished["step"] + 1))
    assert (folder / "mine.safetensors").exists()


def test_a_resumed_run_ends_early_at_the_same_step(impatient, tmp_path):
    """The losses before the resume are in the checkpoint: the event file is not there."""
    spec, folder, adapter = impatient
    end = events(folder, "finished")[0].body["step"]
    for step in (1, end - 1, end):
        again = tmp_path / f"from-{step}"
        assert train_on(spec, folder, step, again) == adapter
        body = events(again, "finished")[0].body
        assert (body["step"], body["best"]["step"]) == (end, end - 2)


def test_a_checkpoint_from_before_a_measurement_that_was_cut_short(many, tmp_path):
    """Asked to stop while it measured, a run measures first when it goes on."""
    spec = make_spec(many, hold_out=2)
    whole = train(spec, tmp_path / "whole")
    plain = make_spec(many, hold_out=2, every_steps=1000)
    train(plain, tmp_path / "unmeasured")
    assert train_on(spec, tmp_path / "unmeasured", 4, tmp_path / "on") == whole
    assert [e.body["step"] for e in events(tmp_path / "on", "validation")] == [4, 6]


def test_masks_and_encoders_that_are_freed(many, tmp_path):
    spec = make_spec(many, hold_out=1, folder=many["data"]["folder"])
    changed = {
        "optim": {"lr_text": 0.0},
        "data": {"masked_loss": True, "caption_dropout": 0.5, "shuffle_parts": True},
    }
    spec = build_spec([spec.model_dump(exclude_none=True), changed])
    train(spec, tmp_path / "run")
    last = events(tmp_path / "run", "validation")[-1].body
    rows = loss_map.read(tmp_path / "run" / last["file"]).rows
    assert [row.sort for row in rows] == ["held_out"] * 7 + ["trained"] * 5


def test_class_pictures_are_measured_too(many, tmp_path):
    data = {"class_pictures": 2, "class_prompts": ["a square", "a circle"]}
    spec = make_spec(many, hold_out=0)
    spec = build_spec(
        [spec.model_dump(exclude_none=True), {"data": data, "preview": {"sampling_steps": 1}}]
    )
    train(spec, tmp_path / "run")
    last = events(tmp_path / "run", "validation")[-1].body
    assert last["loss"] is last["base_loss"] is last["best_step"] is None
    assert last["class_loss"] > 0
    assert events(tmp_path / "run", "finished")[0].body["best"] is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--validation.patience", "2"], ["validation.patience", "validation.every_steps"]),
        (
            ["--validation.every_steps=1", "--validation.hold_out=0", "--validation.patience=2"],
            ["validation.patience", "validation.folder"],
        ),
        (["--validation.every_steps", "1", "--validation.hold_out", "3"], ["3 pictures"]),
    ],
)
def test_settings_that_can_not_be(world, tmp_path, capsys, settings, words):
    (tmp_path / "c.toml").write_text(to_toml(build_spec([world])), encoding="utf-8")
    argv = ["--config", str(tmp_path / "c.toml"), "--output_dir", str(tmp_path / "run"), *settings]
    assert dreambooth_lora.main(argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    for word in words:
        assert word in error
