"""One run as read from its folder: `events.jsonl` tailed from an offset, never held open."""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard

from lora_diffusion.errors import InputError, printable
from trainers import jobs
from trainers.events import OUTCOMES, Event, read_events
from trainers.jobs import RunDir, Status
from trainers.spec import JobSpec
from trainers.validation.history import History
from ui.charts import Series

RunState = Status | Literal["paused", "waiting"]

_SPEED_WINDOW = 30
_HEAD_BYTES = 128
_GLANCE_BYTES = 200_000
# Of a long file read at once: it never lies in memory whole, and other answers come in between.
_PART_BYTES = 1 << 20


@dataclass
class Progress:
    """What the events have told so far."""

    planned_steps: int = 0  # stands in where `started` was not read
    started: dict[str, Any] = field(default_factory=dict)
    phase: dict[str, Any] = field(default_factory=dict)
    loss: Series = field(default_factory=Series)
    last_step: dict[str, Any] = field(default_factory=dict)
    recent_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_SPEED_WINDOW))
    previews: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    exports: dict[int, str] = field(default_factory=dict)
    validation: History = field(default_factory=History)
    measured: dict[str, Any] = field(default_factory=dict)  # the newest validation's body
    checkpoint_step: int | None = None
    notes: list[str] = field(default_factory=list)
    outcome: Event | None = None
    paused: bool = False
    pace_from: tuple[int, float] | None = None
    last_at: float | None = None

    @property
    def step(self) -> int:
        """The newest step."""
        return self.loss.steps[-1] if self.loss.steps else 0

    @property
    def total(self) -> int:
        """How many steps the run will have; 0 where not known yet."""
        return _whole(self.started.get("total_steps")) or self.planned_steps

    @property
    def seconds_a_step(self) -> float | None:
        """The mean over the newest steps, without previews and saving."""
        times = self.recent_seconds
        return sum(times) / len(times) if times else None

    @property
    def pace(self) -> float | None:
        """Seconds of wall clock a step, with everything that happens between steps."""
        if self.pace_from is None or self.last_at is None:
            return None
        steps = self.step - self.pace_from[0]
        wall = self.last_at - self.pace_from[1]
        return wall / steps if steps >= 10 and wall > 0 else self.seconds_a_step

    @property
    def best_step(self) -> int | None:
        """The step whose smoothed validation loss is lowest; None before there are two."""
        best = self.validation.best
        return best.step if best is not None and len(self.validation.points) > 1 else None

    def take(self, event: Event) -> None:
        """Add one event. A body that lacks a field, or holds another type, is passed over."""
        body = event.body
        self.last_at = event.at
        self.outcome = event if event.kind in OUTCOMES else None
        if event.kind == "started":
            self.started = body
            self._rewind(_whole(body.get("resumed_at")))
        elif event.kind == "phase":
            self.phase = body
        elif event.kind == "step":
            self._take_step(body, event.at)
        elif event.kind == "preview" and isinstance(body.get("pictures"), list):
            kept = [p for p in body["pictures"] if isinstance(p, dict)]
            self.previews[_whole(body.get("step"))] = kept
        elif event.kind in {"export", "best"} and isinstance(body.get("file"), str):
            self.exports[_whole(body.get("step"))] = body["file"]
        elif event.kind == "checkpoint" or (event.kind == "stopped" and body.get("checkpoint")):
            self.checkpoint_step = _whole(body.get("step"))
        elif event.kind == "note":
            self.notes.append(str(body.get("text", "")))
        elif event.kind == "validation":
            self._take_validation(body)
        if event.kind != "note":
            self._hold(event)

    def _hold(self, event: Event) -> None:
        """While a run is held, only what it was asked for meanwhile is told of it."""
        if event.kind == "paused":
            self.paused = True
        elif event.kind not in {"preview", "phase", "export", "checkpoint", "validation"}:
            if self.paused:
                self.pace_from = None  # the pause is no pace
            self.paused = False

    def _take_validation(self, body: dict[str, Any]) -> None:
        step, loss = _whole(body.get("step")), body.get("loss")
        self.measured = body
        if step > 0 and _is_finite(loss):  # step 0 is the base alone
            self.validation.add(step, float(loss))

    def _take_step(self, body: dict[str, Any], at: float) -> None:
        loss, seconds = body.get("loss"), body.get("seconds")
        if not _is_finite(loss):
            return
        self.phase = {}
        self.last_step = body
        if self.pace_from is None:
            self.pace_from = (_whole(body.get("step")), at)
        self.loss.add(_whole(body.get("step")), float(loss))
        if isinstance(seconds, int | float) and 0 < seconds < 86_400:
            self.recent_seconds.append(float(seconds))

    def _rewind(self, step: int) -> None:
        self.loss.rewind(step)
        self.previews = {s: p for s, p in self.previews.items() if s <= step}
        self.exports = {s: f for s, f in self.exports.items() if s <= step}
        self.validation = History.of(pair for pair in self.validation.pairs if pair[0] <= step)
        self.recent_seconds.clear()
        self.pace_from = None
        self.last_step = {}


class Follower:
    """Keeps one run's `Progress` up to date, reading only what is new.

    Args:
        run: its folder.
        name: what the studio calls it; None is the folder's name.
    """

    def __init__(self, run: RunDir, name: str | None = None) -> None:
        self.run = run
        self.name = name or run.path.name
        self.progress = Progress()
        self.latest = self.progress  # what `catch_up` or `glance` last saw
        self.offset = 0
        self._glanced = -1
        self._head = b""
        self._spec: tuple[int, JobSpec | None] = (-1, None)
        self._gone = -1
        self._lock = threading.Lock()

    @property
    def sweep(self) -> str:
        """The sweep that the run belongs to; "" where it belongs to none."""
        return self.name.rpartition("/")[0]

    @property
    def title(self) -> str:
        """The name as people read it."""
        return printable(self.name.replace("/", " / "), 80)

    def spec(self) -> JobSpec | None:
        """The run's settings, read again only when written again; None where they can't be."""
        written = _written(self.run.spec_file)
        if self._spec[0] != written:
            try:
                self._spec = (written, self.run.spec())
            except InputError:
                self._spec = (written, None)
        return self._spec[1]

    def catch_up(self) -> Progress:
        """Read the events written since the last call."""
        with self._lock:
            try:
                size = self.run.events_file.stat().st_size
            except OSError:
                size = 0
            self.latest = self.progress
            if size == self.offset:
                return self.progress
            head = self._read_head()
            if size < self.offset or not head.startswith(self._head):  # another file by its name
                self.progress, self.offset = Progress(), 0
                self.latest = self.progress
            self._head = head
            before = -1
            while before < self.offset < size:
                before = self.offset
                events, self.offset = read_events(self.run.events_file, before, _PART_BYTES)
                for event in events:
                    self.progress.take(event)
            return self.progress

    def glance(self) -> Progress:
        """Enough for a line in a list: of a long file not followed yet, only the end is read."""
        try:
            size = self.run.events_file.stat().st_size
        except OSError:
            size = 0
        if self.offset or size <= _GLANCE_BYTES:
            return self.catch_up()
        if size != self._glanced:
            events, _ = read_events(self.run.events_file, size - _GLANCE_BYTES)
            spec = self.spec()
            progress = Progress(planned_steps=(spec.schedule.steps or 0) if spec else 0)
            for event in events:
                progress.take(event)
            self.latest, self._glanced = progress, size
        return self.latest

    def _is_alive(self) -> bool:
        """A process once seen to be gone stays gone until another one is recorded."""
        written = _written(self.run.process_file)
        if written == self._gone or not written:
            return False
        alive = jobs.is_alive(self.run)
        if not alive:
            self._gone = written
        return alive

    def _read_head(self) -> bytes:
        """The start of the file, which tells this run's events from a later namesake's."""
        try:
            with self.run.events_file.open("rb") as file:
                return file.read(_HEAD_BYTES)
        except OSError:
            return b""

    def status(self) -> RunState:
        """How the run stands. An outcome counts at once, though its process may take a moment
        to end; a process younger than the outcome is a resumed run that is starting."""
        outcome = self.latest.outcome
        if self._is_alive():
            if outcome is not None and outcome.at >= _process_start(self.run):
                return _as_status(outcome.kind)
            return "paused" if self.latest.paused else "running"
        if outcome is not None:
            return _as_status(outcome.kind)
        return "interrupted" if self.run.process_file.exists() else "prepared"


class Followers:
    """All runs of one folder, each followed once for all pages."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._known: dict[str, Follower] = {}

    def all(self) -> list[Follower]:
        """Every run, newest first, caught up."""
        found = [self._of(run) for run in jobs.list_runs(self.runs)]
        for follower in found:
            follower.catch_up()
        return found

    def glance(self) -> list[Follower]:
        """Every run, newest first, read as far as a list needs."""
        found = [self._of(run) for run in jobs.list_runs(self.runs)]
        for follower in found:
            follower.glance()
        return found

    def warm(self) -> None:
        """Read the newest run ahead of the first page, which would have to wait for a long one."""
        for run in jobs.list_runs(self.runs)[:1]:
            self._of(run).catch_up()

    def get(self, name: object) -> Follower | None:
        """The run of that name, caught up. Only names of existing run folders find anything."""
        for run in jobs.list_runs(self.runs):
            if jobs.run_name(self.runs, run) == name:
                follower = self._of(run)
                follower.catch_up()
                return follower
        return None

    def _of(self, run: RunDir) -> Follower:
        name = jobs.run_name(self.runs, run)
        return self._known.setdefault(name, Follower(run, name))


def _written(path: Path) -> int:
    """When `path` was last written, in nanoseconds; 0 where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _process_start(run: RunDir) -> float:
    try:
        created = json.loads(run.process_file.read_text(encoding="utf-8"))["created"]
        return float(created)
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _as_status(kind: str) -> Status:
    return "finished" if kind == "finished" else "stopped" if kind == "stopped" else "failed"


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _whole(value: object) -> int:
    """`value` as an int; 0 for anything that is none."""
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else 0
