"""Two steps, measured: the estimate is within a tenth of them, and nothing goes wrong loudly."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import pytest
import torch

from lora_diffusion.errors import InputError
from trainers.dreambooth_lora import main
from trainers.layering import build_spec
from trainers.planner import probe as asking
from trainers.planner import trial
from trainers.planner.estimate import estimate
from trainers.planner.probe import Cancelled, Probe, probe
from trainers.spec import JobSpec

DEMO = {
    "model": {"precision": "fp32", "device": "cpu", "threads": 1},
    "data": {"folder": "bundled:demo_character", "trigger": "sks"},
    "schedule": {"steps": 10, "batch_size": 4},
}
CONFIGURATIONS = {
    "unet": {"optim": {"lr_text": 0.0}},
    "text too": {"optim": {"lr_text": 1e-4}},
    "recomputed": {"optim": {"lr_text": 0.0}, "model": {"gradient_checkpointing": True}},
    "every layer": {"optim": {"lr_text": 0.0}, "adapter": {"targets": "all", "rank": 4}},
    "one at a time": {"schedule": {"batch_size": 1}, "adapter": {"kind": "dora"}},
    "bf16": {"optim": {"lr_text": 0.0, "ema_decay": 0.99}, "model": {"precision": "bf16"}},
    "larger": {"optim": {"lr_text": 0.0, "kind": "lion"}, "data": {"resolution_px": 96}},
    "prodigy": {"optim": {"kind": "prodigy"}, "adapter": {"rank": 32}},  # keeps no zeros of B
}


def make_spec(**changes: object) -> JobSpec:
    return build_spec([DEMO, changes])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_estimate_is_within_a_tenth_of_what_is_measured(name):
    spec = make_spec(**CONFIGURATIONS[name])
    measured = trial.measure(spec, lambda _text: None)
    told = estimate(spec, gpu=False)
    found = Probe(**measured, estimated=told.phases["train"])
    assert found.weights == pytest.approx(told.weights, rel=0.02)
    assert found.adapter == pytest.approx(told.adapter, rel=0.02 if name != "prodigy" else 0.2)
    assert found.estimated == pytest.approx(found.peak, rel=0.1)
    assert found.step_seconds > 0


def test_the_command_prints_it_after_the_plan(capsys, tmp_path):
    options = [f"--{section}.{name}={value}" for section, name, value in (
        ("model", "device", "cpu"), ("schedule", "batch_size", "2"), ("optim", "lr_text", "0"),
    )]  # fmt: skip
    assert main(["--preset", "demo-character", "--plan", "--probe", *options]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("measured"))
    assert any(line.startswith("memory") for line in lines[:at])
    assert "s a step of 2 x 64 x 64 px on cpu" in lines[at + 2]
    assert "a second step" in printed.err
    assert main(["--preset", "demo-character", "--output_dir", str(tmp_path), "--probe"]) == 2


def test_what_is_wrong_with_the_run_is_one_line():
    with pytest.raises(InputError, match=r"no-such-base.*"):
        probe(make_spec(model={"base": "/no-such-base"}))


def test_it_is_cancelled_at_once_and_leaves_no_process(monkeypatch):
    started = watch(monkeypatch)
    with pytest.raises(Cancelled):
        probe(make_spec(), is_cancelled=lambda: True)
    assert started[0].poll() == -signal.SIGKILL


def test_a_process_that_the_system_ends_is_told_of(monkeypatch):
    started = watch(monkeypatch)

    def end_it() -> bool:
        started[0].kill()
        return False

    with pytest.raises(InputError, match=r"ended by the system \(signal 9\).*memory"):
        probe(make_spec(), is_cancelled=end_it)


def test_a_step_that_does_not_fit_is_told_of(monkeypatch):
    told: list[dict[str, object]] = []

    def short(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trial, "measure", short)
    trial.answer(make_spec().model_dump_json(), told.append)
    [reply] = told
    assert "Memory does not suffice" in str(reply["error"])


def watch(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """The processes that are started from here on."""
    started: list[subprocess.Popen[str]] = []

    class Watched(subprocess.Popen):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(asking.subprocess, "Popen", Watched)
    return started
