"""Pause, save and sample a running process from outside."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.trainers.conftest import FAST, assert_same_tensors, command, environment
from trainers import control, jobs
from trainers.events import Event, read_events
from trainers.jobs import RunDir

STEPS = 8


def test_each_request_is_answered_once(tmp_path: Path) -> None:
    folder = tmp_path / "control"
    assert control.take(folder) == []
    control.ask(folder, "sample")
    control.ask(folder, "save")
    control.ask(folder, "save")
    (folder / "unheard of").touch()
    assert control.take(folder) == ["save", "sample"] and control.take(folder) == []


def test_pausing_lasts_until_it_is_taken_back(tmp_path: Path) -> None:
    folder = tmp_path / "control"
    control.unpause(folder)
    assert not control.is_paused(folder)
    control.pause(folder)
    control.take(folder)
    assert control.is_paused(folder)
    control.clear(folder)
    assert not control.is_paused(folder)


def _until(check: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 120
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_paused_run_saves_samples_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    options = [
        *FAST, "--schedule.steps", STEPS, "--save.dtype", "fp32", "--data.class_pictures", "0",
        "--save.name", "same",
    ]  # fmt: skip
    run = RunDir(tmp_path / "held")
    control.pause(run.control)
    control.ask(run.control, "save")  # of an earlier process: forgotten

    def events(kind: str) -> list[Event]:
        return [e for e in read_events(run.events_file)[0] if e.kind == kind]

    process = subprocess.Popen(
        command(*options, "--output_dir", run.path), env=environment(), stderr=subprocess.DEVNULL
    )
    plain = threading.Thread(
        target=subprocess.run,
        args=(command(*options, "--output_dir", tmp_path / "plain"),),
        kwargs={"env": environment(), "capture_output": True, "check": True},
    )
    try:
        _until(lambda: events("phase"), "a first event")
        control.pause(run.control)
        _until(lambda: events("paused"), "paused")
        at = events("paused")[0].body["step"]
        assert 0 < at < STEPS and jobs.is_alive(run)
        control.ask(run.control, "sample")
        control.ask(run.control, "save")
        plain.start()
        _until(lambda: events("export"), "saved while paused")
        assert events("preview")[-1].body["step"] == at
        assert events("export")[0].body["step"] == events("checkpoint")[-1].body["step"] == at
        assert (run.exports / f"same-step{at:08d}.safetensors").is_file()
        assert events("step")[-1].body["step"] == at, "no step while it is paused"
        control.unpause(run.control)
        assert process.wait(120) == 0
        assert events("unpaused")[0].body["step"] == at and events("finished")
        plain.join(120)
        assert_same_tensors(run.path / "same.safetensors", tmp_path / "plain/same.safetensors")
    finally:
        process.kill()
        process.wait()
