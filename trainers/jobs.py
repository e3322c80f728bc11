"""Run folders: make, start, follow, stop. No torch: the studio lives on this."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from lora_diffusion.errors import InputError
from lora_diffusion.files import write_text
from trainers.events import OUTCOMES, Event, read_events
from trainers.layering import build_spec, read_toml, to_toml
from trainers.spec import JobSpec

SWEEP_FILE = "sweep.json"  # in the folder of a sweep, whose runs lie in it
Status = Literal["prepared", "running", "finished", "stopped", "failed", "interrupted"]


@dataclass(frozen=True)
class RunDir:
    """One run's folder; every path in it has one name here."""

    path: Path

    @property
    def spec_file(self) -> Path:
        return self.path / "spec.toml"

    @property
    def process_file(self) -> Path:
        return self.path / "process.json"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def lock_file(self) -> Path:
        return self.path / ".lock"

    @property
    def contact_sheet(self) -> Path:
        return self.path / "contact_sheet.png"

    @property
    def control(self) -> Path:
        return self.path / "control"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    @property
    def class_pictures(self) -> Path:
        return self.path / "class_pictures"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    @property
    def validation(self) -> Path:
        return self.path / "validation"

    def adapter_file(self, spec: JobSpec) -> Path:
        """`NAME.safetensors` at the top of the folder."""
        return self.path / f"{adapter_name(spec, self)}.safetensors"

    def named(self, relative: object) -> Path | None:
        """A file that an event names, if it really lies in this folder."""
        if not isinstance(relative, str):
            return None
        try:
            path = (self.path / relative).resolve()
            return path if path.is_relative_to(self.path.resolve()) and path.is_file() else None
        except (OSError, ValueError):
            return None

    def spec(self) -> JobSpec:
        """The run's settings.

        Raises:
            InputError: missing or damaged `spec.toml`.
        """
        return build_spec([read_toml(self.spec_file)])


def adapter_name(spec: JobSpec, run: RunDir) -> str:
    """`save.name`, or the run folder's name."""
    return spec.save.name or run.path.resolve().name


def prepare(runs: Path, name: str, spec: JobSpec) -> RunDir:
    """A new folder under `runs` with `spec.toml` in it; the name gets a number when taken."""
    slug = re.sub(r"[^\w.-]+", "-", name.strip()).strip("-.") or "run"
    runs.mkdir(parents=True, exist_ok=True)
    for number in range(1, 100_000):
        path = runs / (slug if number == 1 else f"{slug}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        run = RunDir(path)
        write_text(run.spec_file, to_toml(spec))
        return run
    raise InputError(f"{runs}: has too many runs called '{slug}'. Choose another name.")


def start(run: RunDir, *, resume: bool = False) -> int:
    """Start `python -m trainers.dreambooth_lora --run DIR` in a session of its own.

    Its input is closed and its output goes to `log.txt`, so it outlives whoever started it.

    Returns:
        The process id.
    """
    command = [sys.executable, "-m", "trainers.dreambooth_lora", "--run", str(run.path.resolve())]
    if resume:
        command.append("--resume")
    with run.log_file.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).resolve().parent.parent,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
        )
    if not is_alive(run):  # else the folder is taken, and this process will say so and end
        record_process(run, process.pid)
    return process.pid


def record_process(run: RunDir, pid: int) -> None:
    """Write `process.json`, by which any reader finds the process again."""
    body = {"pid": pid, "created": _created(pid), "command": "trainers.dreambooth_lora"}
    write_text(run.process_file, json.dumps(body))


def record_own_process(run: RunDir) -> None:
    """Write `process.json` for this very process."""
    record_process(run, os.getpid())


def process_id(run: RunDir) -> int | None:
    """The recorded process's number, which the runs of a sweep may share; None without one."""
    try:
        return int(json.loads(run.process_file.read_text(encoding="utf-8"))["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_alive(run: RunDir) -> bool:
    """Whether the process in `process.json` still runs (and is not another with its number)."""
    try:
        body = json.loads(run.process_file.read_text(encoding="utf-8"))
        created = _created(int(body["pid"]))
    except (OSError, ValueError, KeyError):
        return False
    return created is not None and abs(created - body["created"]) < 1.5


def status(run: RunDir) -> Status:
    """How the run stands, from its last event and its process."""
    last = last_event(run)
    if is_alive(run):
        return "running"
    if last is None:
        return "interrupted" if run.process_file.exists() else "prepared"
    return last.kind if last.kind in OUTCOMES else "interrupted"  # type: ignore[return-value]


def last_event(run: RunDir) -> Event | None:
    """The newest event, read from the file's tail."""
    try:
        size = run.events_file.stat().st_size
    except FileNotFoundError:
        return None
    for window in (65_536, size):
        events, _ = read_events(run.events_file, max(0, size - window))
        if events:
            return events[-1]
    return None


def stop(run: RunDir) -> bool:
    """Ask the run to save and stop. Returns whether there was a process to ask."""
    if not is_alive(run):
        return False
    pid = process_id(run)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    return True


def list_runs(runs: Path) -> list[RunDir]:
    """Run folders directly under `runs` and in the sweeps there, newest first."""
    if not runs.is_dir():
        return []
    folders = [runs, *(file.parent for file in runs.glob(f"*/{SWEEP_FILE}"))]
    found = [RunDir(p.parent) for folder in folders for p in folder.glob("*/spec.toml")]
    return sorted(found, key=lambda r: r.spec_file.stat().st_mtime, reverse=True)


def run_name(runs: Path, run: RunDir) -> str:
    """What a run of `list_runs` is called: its folder's name, in a sweep `SWEEP/NAME`."""
    return run.path.relative_to(runs).as_posix()


def wait(run: RunDir, seconds: float) -> bool:
    """Wait until the process is gone, at most `seconds`; returns whether it is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not is_alive(run):
            return True
        time.sleep(0.1)
    return not is_alive(run)


def _created(pid: int) -> Any:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except psutil.Error:
        return None
