"""Runs that wait for their turn: an order of run folders on disk, started one after another.

A waiting run is a prepared folder (`spec.toml`, no process yet), or one that is to be resumed,
whose name stands in `queue.json` beside it; so the order survives whatever happens to the program
that shows it. No torch.
"""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import write_text
from trainers import jobs
from trainers.events import EventLog
from trainers.jobs import RunDir

_LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Waiting:
    """A place in the queue: a run's name (`jobs.run_name`), and whether it goes on or begins."""

    name: str
    resume: bool = False


class Queue:
    """The waiting runs under one folder; several programs may use the same one."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._file = runs / "queue.json"
        self._lock = FileLock(runs / ".queue.lock", timeout=_LOCK_SECONDS)

    def waiting(self) -> list[Waiting]:
        """The next one first; what was started or deleted elsewhere is left out."""
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        entries = found.get("waiting") if isinstance(found, dict) else None
        known = map(_parse, entries if isinstance(entries, list) else [])
        by_name = {entry.name: entry for entry in known if entry is not None}
        return [entry for entry in by_name.values() if self._is_waiting(entry)]

    def names(self) -> list[str]:
        """The names of the waiting runs, the next one first."""
        return [entry.name for entry in self.waiting()]

    def add(self, run: RunDir, *, resume: bool = False) -> None:
        """Put a prepared run, or one that is to be resumed, at the end."""
        entry = Waiting(jobs.run_name(self._runs, run), resume)
        with self._lock:
            self._write([*(w for w in self.waiting() if w.name != entry.name), entry])

    def remove(self, name: str) -> None:
        """Take a run out; its folder stays."""
        with self._lock:
            self._write([entry for entry in self.waiting() if entry.name != name])

    def move(self, name: str, place: int) -> None:
        """Put a waiting run at `place`, 0 being the next; a place beyond the end is the end.

        Raises:
            InputError: the run is not waiting.
        """
        with self._lock:
            waiting = self.waiting()
            moved = next((entry for entry in waiting if entry.name == name), None)
            if moved is None:
                raise InputError(f"'{printable(name, 80)}' is no longer waiting.")
            waiting.remove(moved)
            waiting.insert(max(0, place), moved)
            self._write(waiting)

    def start_next(self) -> RunDir | None:
        """Start the first waiting run if none is working now; returns it if so.

        One that can't be started fails by itself, and the next call goes on with the next.
        """
        if not self.waiting():
            return None
        with self._lock:
            waiting = self.waiting()
            if not waiting or any(jobs.is_alive(run) for run in jobs.list_runs(self._runs)):
                return None
            run = RunDir(self._runs / waiting[0].name)
            self._write(waiting[1:])
            try:
                jobs.start(run, resume=waiting[0].resume)
            except OSError as error:
                _fail(run, f"The run can't be started: {error.strerror or error}. Try it again.")
            return run

    def _is_waiting(self, entry: Waiting) -> bool:
        run = RunDir(self._runs / entry.name)
        if not run.spec_file.is_file():
            return False
        return not jobs.is_alive(run) if entry.resume else not run.process_file.exists()

    def _write(self, waiting: list[Waiting]) -> None:
        body = {"waiting": [asdict(entry) for entry in waiting]}
        write_text(self._file, json.dumps(body, ensure_ascii=False, indent=1) + "\n")


class Scheduler:
    """Starts waiting runs, in a thread of whoever opened it."""

    def __init__(self, queue: Queue, every_seconds: float = 1.0) -> None:
        self._queue = queue
        self._every_seconds = every_seconds
        self._wake = threading.Event()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Begin looking after the queue."""
        self._thread = threading.Thread(target=self._work, daemon=True, name="queue")
        self._thread.start()

    def wake(self) -> None:
        """Look now rather than at the next turn."""
        self._wake.set()

    def close(self) -> None:
        """Stop looking; what runs goes on."""
        self._end.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_LOCK_SECONDS)

    def _work(self) -> None:
        while not self._end.is_set():
            # a disk that is full or a lock that another program holds: the next turn tries again
            with contextlib.suppress(OSError):
                self._queue.start_next()
            self._wake.wait(self._every_seconds)
            self._wake.clear()


def _fail(run: RunDir, text: str) -> None:
    events = EventLog(run.events_file)
    events.write("failed", text=text, defect=False)
    events.close()


def _parse(entry: object) -> Waiting | None:
    """An entry of the file; None for anything else, a name that leads elsewhere included."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return None
    name = entry["name"]
    parts = name.split("/")
    if len(parts) > 2 or any(Path(p).name != p or p in {"", ".", ".."} for p in parts):
        return None
    return Waiting(name, entry.get("resume") is True)
