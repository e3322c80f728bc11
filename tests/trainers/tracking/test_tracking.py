"""TensorBoard's files read back, W&B by a stand-in; a tracker that fails ends nothing."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lora_diffusion.errors import InputError
from tests.trainers.test_bit_exact import METHODS, settings, train, train_on
from trainers.events import Event, EventLog, read_events
from trainers.jobs import RunDir
from trainers.layering import build_spec
from trainers.spec import JobSpec, TrackingSpec
from trainers.tracking.mirror import Mirrors, check, figures
from trainers.tracking.weights_and_biases import WeightsAndBiases, run_id

STEPS = 3


def make_spec(world: dict[str, Any], *to: str, **tracking: Any) -> JobSpec:
    spec = settings(world, STEPS, METHODS["adamw"])
    more = {
        "tracking": {"to": to, **tracking},
        "preview": {"enabled": True, "prompts": ["a", "b"], "sampling_steps": 1},
        "validation": {"every_steps": 2, "hold_out": 1, "timesteps": 2, "max_pictures": 1},
    }
    return build_spec([spec.model_dump(exclude_none=True), more])


def read_back(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def values(found: EventAccumulator, name: str) -> dict[int, float]:
    return {each.step: each.value for each in found.Scalars(name)}


def told(folder: Path, kind: str, field: str) -> dict[int, float]:
    events, _ = read_events(folder / "events.jsonl")
    return {e.body["step"]: e.body[field] for e in events if e.kind == kind}


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tracked") / "run"
    train(make_spec(world, "tensorboard"), folder)
    return folder


def test_tensorboard_has_what_the_events_say(whole):
    found = read_back(whole)
    for kind, field, name in (
        ("step", "loss", "train/loss"),
        ("step", "lr", "train/learning_rate"),
        ("validation", "loss", "validation/loss"),
        ("validation", "train_loss", "validation/loss_on_trained"),
    ):
        assert values(found, name) == pytest.approx(told(whole, kind, field)), name
    assert set(found.Tags()["images"]) == {"preview/00", "preview/01", "loss map"}
    assert [each.step for each in found.Images("preview/01")] == [0, STEPS]
    text = found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "[tracking]" in text
    assert str(whole.parent) not in text  # no local paths


def test_what_a_resumed_run_does_again_takes_the_old_figures_place(world, whole, tmp_path):
    folder = tmp_path / "run"
    train_on(make_spec(world, "tensorboard"), whole, 1, folder)
    for path in (whole / "tensorboard").iterdir():
        (folder / "tensorboard" / f"events.out.tfevents.0.{path.name}").write_bytes(
            path.read_bytes()
        )  # the killed run's, which sorts first
    found = read_back(folder)
    assert [each.step for each in found.Scalars("train/loss")] == [1, 2, 3]


class Stand:
    """A stand-in for wandb that takes down what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []
        self.module = types.ModuleType("wandb")
        self.module.init = self._init
        self.module.Settings = lambda **settings: settings
        self.module.Image = lambda path, caption: (Path(path).name, caption)

    def _init(self, **options: Any) -> Stand:
        self.said.append(("init", options))
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.said.append(("metric", (name, step_metric)))

    def log(self, values: dict[str, Any]) -> None:
        self.said.append(("log", values))

    def finish(self, exit_code: int) -> None:
        self.said.append(("finish", exit_code))

    def of(self, kind: str) -> list[Any]:
        return [what for name, what in self.said if name == kind]


@pytest.fixture
def stand(monkeypatch) -> Stand:
    made = Stand()
    monkeypatch.setitem(sys.modules, "wandb", made.module)
    return made


def test_wandb_is_told_the_same_and_no_paths(world, tmp_path, stand):
    folder = tmp_path / "run"
    train(make_spec(world, "wandb", project="mine", offline=True), folder)
    [options] = stand.of("init")
    assert (options["project"], options["name"], options["mode"]) == ("mine", "run", "offline")
    assert options["id"] == run_id(RunDir(folder))
    assert str(world["model"]["base"]) not in str(options["config"])
    assert options["settings"] == {
        "silent": True, "console": "off", "disable_code": True, "disable_git": True,
    }  # fmt: skip
    logged = stand.of("log")
    losses = {each["step"]: each["train/loss"] for each in logged if "train/loss" in each}
    assert losses == told(folder, "step", "loss")
    assert {"step": 0, "preview/00": ("00.png", "a"), "preview/01": ("01.png", "b")} in logged
    assert stand.of("finish") == [0]
    assert ("*", "step") in stand.of("metric")


def test_a_resumed_run_is_the_same_run_at_wandb(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.write("note", text="x")
    first = run_id(RunDir(tmp_path))
    log.write("note", text="y")
    assert run_id(RunDir(tmp_path)) == first
    assert len(first) == 16


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_tracker_that_fails_ends_nothing(world, tmp_path, stand, monkeypatch, capsys, broken):
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no network\nand more")

    owner = stand.module if broken == "init" else Stand
    monkeypatch.setattr(owner, broken, fail)
    train(make_spec(world, "wandb", "tensorboard"), tmp_path / "run")
    events, _ = read_events(tmp_path / "run" / "events.jsonl")
    assert events[-1].kind == "finished"
    said = [e.body["text"] for e in events if e.kind == "note" and "wandb" in e.body["text"]]
    if broken == "finish":
        said = [line for line in capsys.readouterr().err.splitlines() if "wandb" in line]
    [text] = said
    assert text.startswith("tracking.to wandb: no network. ")
    assert values(read_back(tmp_path / "run"), "train/loss").keys() == {1, 2, 3}


def test_a_library_that_is_not_there_is_one_line_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError) as caught:
        check(TrackingSpec(to=("tensorboard", "wandb")))
    text = str(caught.value)
    assert text.startswith("tracking.to = wandb can't be used")
    assert "lora-diffusion[tracking]" in text
    assert "\n" not in text


def test_numbers_that_are_not_there_are_left_out():
    event = Event(0, 0.0, "step", {"step": 1, "loss": None, "lr": 0.5, "peak_bytes": 1 << 30})
    assert figures(event) == {"train/learning_rate": 0.5, "train/memory_gb": 1.0}
    assert figures(Event(0, 0.0, "note", {"step": 1, "loss": 3.0})) == {}


def test_a_failed_run_is_told_as_failed(tmp_path, stand):
    spec = build_spec([{"tracking": {"to": ["wandb"]}}])
    mirrors = Mirrors(spec, RunDir(tmp_path), 0, {"wandb": WeightsAndBiases}, pytest.fail)
    mirrors(Event(0, 0.0, "failed", {"text": "x", "defect": False}))
    mirrors.close()
    assert stand.of("finish") == [1]


def test_settings_of_wandb_need_wandb():
    with pytest.raises(InputError, match=r"tracking\.offline is for wandb"):
        build_spec([{"tracking": {"to": ["tensorboard"], "offline": True}}])
