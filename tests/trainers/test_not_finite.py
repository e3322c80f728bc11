"""Losses and gradients that are not finite, at many steps of a run: nothing of them is written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_diffusion.errors import InputError
from trainers.events import read_events
from trainers.jobs import RunDir
from trainers.layering import build_spec
from trainers.loop import Trainer
from trainers.run import run
from trainers.spec import JobSpec
from trainers.stopping import StopSignal

TOTAL, BAD = 100, 50
SETTINGS = {
    "model": {"precision": "fp32", "device": "cpu", "threads": 1},
    "data": {"trigger": "sks"},
    "adapter": {"rank": 2},
    "optim": {"lr_unet": 1e-2, "ema_decay": 0.9},
    "schedule": {"steps": TOTAL, "batch_size": 2},
    "preview": {"enabled": False},
    "save": {"every_steps": 5, "checkpoint_every_steps": 10, "keep_checkpoints": 100},
}


def bad_steps() -> set[int]:
    """50 random steps of 100, of which no three follow each other."""
    source = random.Random(0)
    while True:
        chosen = set(source.sample(range(TOTAL), 1))
        for step in source.sample(range(TOTAL), TOTAL):
            if len(chosen) < BAD and not any(
                {a, a + 1, a + 2} <= chosen | {step} for a in range(step - 2, step + 1)
            ):
                chosen.add(step)
        if len(chosen) == BAD:
            return chosen


def poison(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """Make every other bad step's loss not a number, and the others' gradient infinite."""
    plain = Trainer.loss

    def loss(self: Trainer, batch):
        step = self.handle.clock.step
        value = plain(self, batch)
        if step not in bad:
            return value
        if step % 2:
            return value * float("nan")
        value.register_hook(lambda gradient: gradient * float("inf"))
        return value

    monkeypatch.setattr(Trainer, "loss", loss)


def job(world: dict[str, dict[str, object]], **changes: dict[str, object]) -> JobSpec:
    return build_spec([SETTINGS, world, changes])


def test_fifty_bad_steps_leave_no_trace_in_any_file(world, tmp_path: Path, monkeypatch):
    bad = bad_steps()
    poison(monkeypatch, bad)
    folder = RunDir(tmp_path / "run")
    assert run(job(world), folder, StopSignal()).exit_code == 0
    files = [
        *folder.exports.iterdir(),
        *folder.checkpoints.iterdir(),
        folder.path / "run.safetensors",
    ]
    assert len(files) > 25
    for file in files:
        for name, tensor in load_file(file).items():
            assert torch.isfinite(tensor.float()).all(), (file, name)
    told = [e.body["text"] for e in read_events(folder.events_file)[0] if e.kind == "note"]
    left_out = [text for text in told if "was left out" in text]
    assert len(left_out) == BAD
    assert all(".png" in text for text in left_out)


def test_three_in_a_row_end_the_run_and_keep_what_was_before(world, tmp_path: Path, monkeypatch):
    poison(monkeypatch, {4, 5, 6})
    folder = RunDir(tmp_path / "run")
    with pytest.raises(InputError, match=r"3 times in a row.*\.png.*optim\.lr_unet.*precision"):
        run(job(world), folder, StopSignal())
    for tensor in load_file(sorted(folder.checkpoints.iterdir())[-1]).values():
        assert torch.isfinite(tensor.float()).all()
