"""Several processes (gloo, CPU) train as one does, and end together whatever happens to one.

Only the order of sums differs: losses agree to 1e-5, and adapters to 1e-4, since AdamW divides
small gradients by themselves.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lora_diffusion
from lora_diffusion.files import write_text
from tests.trainers.test_bit_exact import EVERYTHING
from trainers import checkpoint
from trainers.events import Event, read_events
from trainers.jobs import RunDir
from trainers.layering import build_spec, to_toml
from trainers.machine.team import Team

if os.name != "posix":
    pytest.skip("forks, and sends signals", allow_module_level=True)

from tests.trainers.machine import teammates

STEPS = 4
SETTINGS: dict[str, Any] = {
    "data": {"class_pictures": 3, "class_prompts": ["a square"], "resolution_px": 64},
    "optim": {"lr_unet": 1e-2, "lr_text": 1e-2, "ema_decay": 0.9},
    "schedule": {"steps": STEPS, "batch_size": 3, "accumulate": 2},
    "save": {"checkpoint_every_steps": 1},
}


def prepare(
    world: dict[str, Any], folder: Path, alone: RunDir | None = None, **changes: Any
) -> RunDir:
    """A run's folder, with the class pictures that another has drawn."""
    run = RunDir(folder)
    if alone is not None:
        shutil.copytree(alone.class_pictures, run.class_pictures)
    write_text(run.spec_file, to_toml(build_spec([EVERYTHING, world, SETTINGS, changes])))
    return run


def events(run: RunDir, kind: str) -> list[Event]:
    return [e for e in read_events(run.events_file)[0] if e.kind == kind]


def losses(run: RunDir) -> list[float]:
    return [e.body["loss"] for e in events(run, "step")]


def adapter(run: RunDir) -> torch.Tensor:
    """As the library loads it."""
    layers = lora_diffusion.load(run.path / "mine.safetensors").layers
    return torch.cat([t.flatten() for key in layers for t in layers[key].tensors().values()])


def assert_alike(run: RunDir, alone: RunDir) -> None:
    assert losses(run) == pytest.approx(losses(alone)[-len(losses(run)) :], rel=1e-5)
    one, other = adapter(run), adapter(alone)
    assert (one - other).norm() <= 1e-4 * other.norm()


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory) -> RunDir:
    """The run by one process."""
    run = prepare(world, tmp_path_factory.mktemp("alone") / "run")
    [ended] = teammates.train(run.path, 1)
    assert ended.code == 0, ended.said
    return run


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.soak)])
def test_several_processes_train_as_one(world, alone, tmp_path, size):
    """Of four, one has nothing to do in each batch of three."""
    run = prepare(world, tmp_path / "run", alone)
    ended = teammates.train(run.path, size)
    assert [each.code for each in ended] == [0] * size, ended
    assert_alike(run, alone)
    assert len(losses(run)) == STEPS
    assert all(each.said == "" for each in ended[1:])  # one tells
    assert f"{size} processes" in ended[0].said
    assert len(checkpoint.files(run.checkpoints)) == STEPS
    encoded = [e.body for e in events(run, "phase") if e.body["name"] == "encode"]
    assert encoded[-1]["done"] == 6 // size  # of six pictures its share


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (1, 2),
        pytest.param(2, 1, marks=pytest.mark.soak),
        pytest.param(3, 2, marks=pytest.mark.soak),
    ],
)
def test_a_run_goes_on_in_more_or_fewer_processes(world, alone, tmp_path, first, then):
    run = prepare(world, tmp_path / "run", alone)
    if first == 1:
        run.checkpoints.mkdir()
        shutil.copy(checkpoint.files(alone.checkpoints)[1], run.checkpoints)
    else:
        teammates.train(run.path, first, twist=teammates.fails_at_2)
    ended = teammates.train(run.path, then, resume=True)
    assert [each.code for each in ended] == [0] * then, ended
    assert losses(run)[-2:] == pytest.approx(losses(alone)[-2:], rel=1e-5)
    assert (adapter(run) - adapter(alone)).norm() <= 1e-4 * adapter(alone).norm()


def test_a_signal_to_one_saves_and_stops_all(world, alone, tmp_path):
    run = prepare(world, tmp_path / "run", alone)
    ended = teammates.train(run.path, 2, twist=teammates.interrupted_at_2)
    assert [each.code for each in ended] == [130, 130], ended
    [stopped] = events(run, "stopped")
    assert stopped.body["signal"] == "SIGINT"
    assert checkpoint.newest(run.checkpoints).step == stopped.body["step"] == 3
    assert ended[0].said.endswith(f"--output_dir {run.path} --resume\n")
    assert teammates.train(run.path, 2, resume=True)[1].code == 0
    assert_alike(run, alone)


@pytest.mark.parametrize(
    ("twist", "words", "saved"),
    [
        (teammates.fails_at_2, "b.png: can't be read. Remove it.", 2),
        (teammates.is_killed_at_2, "Another process of this run ended without a word", 2),
        (teammates.fails_at_the_start, "This machine has no base. Copy it here.", None),
        (teammates.main_fails_to_save, "/full: the disk is full", None),
    ],
)
def test_one_that_fails_ends_all_with_its_one_line(world, alone, tmp_path, twist, words, saved):
    run = prepare(world, tmp_path / "run")
    main, other = teammates.train(run.path, 2, twist=twist)
    assert main.code == 2, main
    assert other.code in (2, -9)
    assert other.said == ""
    [line] = [line for line in main.said.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {words}")
    assert "Traceback" not in main.said
    assert events(run, "failed")[-1].body["defect"] is False
    newest = checkpoint.newest(run.checkpoints)
    assert (newest.step if newest else None) == saved
    if saved:
        assert_same_pictures(run, alone)


def assert_same_pictures(run: RunDir, alone: RunDir) -> None:
    """Drawn in other batches, they may differ in the last bit of a value."""
    drawn = sorted(run.class_pictures.glob("*.png"))
    assert len(drawn) == 3
    for path in drawn:
        one, other = (
            np.asarray(Image.open(p), int) for p in (path, alone.class_pictures / path.name)
        )
        assert abs(one - other).max() <= 1


def test_one_that_lacks_memory_makes_all_save_it(world, alone, tmp_path):
    run = prepare(world, tmp_path / "run", alone)
    ended = teammates.train(run.path, 2, twist=teammates.second_lacks_memory)
    assert [each.code for each in ended] == [0, 0], ended
    assert [e.body["parts"] for e in events(run, "memory")] == [2]
    assert "on another device" in ended[0].said
    assert_alike(run, alone)


def test_processes_share_a_disk_cache(world, alone, tmp_path):
    cache = {"cache": "disk", "cache_folder": str(tmp_path / "cache"), "class_pictures": 0}
    text = {"lr_unet": 1e-2, "lr_text": 0.0}
    run = prepare(world, tmp_path / "run", data=cache, optim=text)
    assert [each.code for each in teammates.train(run.path, 2)] == [0, 0]
    single = prepare(world, tmp_path / "single", data=cache, optim=text)
    assert teammates.train(single.path, 1)[0].code == 0
    assert_alike(run, single)
    assert (tmp_path / "cache" / "latents" / "index.json").is_file()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_cover_everything_once_and_are_even(count, size):
    for turn in range(4):
        shares = [range(count)[Team(rank=r, size=size).own(count, turn)] for r in range(size)]
        assert sorted(i for share in shares for i in share) == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_picture_more_goes_to_each_in_turn():
    takes = [len(range(1)[Team(rank=0, size=2).own(1, turn)]) for turn in range(4)]
    assert sorted(takes) == [0, 0, 1, 1]
    assert takes[0] != takes[1]
