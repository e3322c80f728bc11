"""`events.jsonl`: the append-only truth of a run, written by one process, tailed by many.

Kinds and their bodies:

| kind | body |
| --- | --- |
| `started` | `total_steps`, `pictures`, `held_out`, `class_pictures`, `trainable`, `base`, |
| | `resumed_at`, … |
| `phase` | `name`, `text`, and for a countable one `done`, `total` |
| `doctor` | `files`, `problems` (the first 200), `counts`, `kinds`: see `trainers.data.doctor` |
| `step` | `step`, `loss`, `lr`, `grad_norm`, `seconds`, `peak_bytes` (0 where unknown) |
| `preview` | `step`, `pictures`: `[{prompt, file}]`, files relative to the run folder |
| `checkpoint` | `step`, `file` |
| `export` | `step`, `file`, `portable`, `readers`, `unread`; the final one has `final: true` |
| `memory` | `recompute`, `parts`, `away`: memory ran out, what is saved from here on |
| `validation` | `step` (0 is the base alone), `loss` on held-out pictures and `smooth`, |
| | `train_loss`, `class_loss` on such pictures, each `base_…` too: the base's; `timesteps`, |
| | `by_timestep`; `moved`, `leak`; `best_step`; `file` (JSON), `picture` (PNG); `seconds`. What |
| | there is none of is null |
| `best` | `step`, `loss` (smoothed), `file` in `exports/`, `reason`: the lowest loss so far |
| `note` | `text`: something a user should know |
| `paused` | `step`, `checkpoint`: the process holds until it is told to go on |
| `unpaused` | `step` |
| `finished` | `step`, `file`, `contact_sheet`, `seconds`; `best`: as the event, or null; |
| | `stopped_early`: a sentence that says why, or null |
| `stopped` | `step`, `signal`, `checkpoint` |
| `failed` | `text`: one sentence with cause and fix; `defect`: true when it is our fault |

`moved` is how far predictions with the trigger are from the base's, as a share of these; `leak` is
the same without the trigger, as a share of `moved` (0: none, 1: the trigger means nothing).
`readers` are the programs that read every key of the file right, `unread` is `{program: reason}` of
the others. The last event is the outcome. A dead process without an outcome is "interrupted".
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTCOMES = frozenset({"finished", "stopped", "failed"})


@dataclass(frozen=True)
class Event:
    """One line: `seq` counts from 0, `at` is Unix time in seconds."""

    seq: int
    at: float
    kind: str
    body: dict[str, Any]


class EventLog:
    """The writing end. Opening an existing file goes on after its last whole line.

    Attributes:
        listeners: called with each event once it is written; they never raise.
    """

    def __init__(self, path: Path) -> None:
        events, end = read_events(path)
        self._next_seq = events[-1].seq + 1 if events else 0
        if path.exists() and path.stat().st_size > end:
            os.truncate(path, end)  # a line torn by a kill
        self._file = path.open("a", encoding="utf-8")
        self.listeners: list[Callable[[Event], None]] = []

    def write(self, kind: str, **body: Any) -> Event:
        """Append one event and hand it to the operating system at once."""
        event = Event(self._next_seq, time.time(), kind, body)
        line = {"seq": event.seq, "at": round(event.at, 3), "kind": kind, "body": body}
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        self._next_seq += 1
        for listener in self.listeners:
            listener(event)
        return event

    def close(self) -> None:
        """Flush to disk and close."""
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


class NoEvents(EventLog):
    """Writes nothing: of one run's processes, one writes."""

    def __init__(self) -> None:
        self._next_seq = 0

    def write(self, kind: str, **body: Any) -> Event:
        return Event(0, time.time(), kind, body)

    def close(self) -> None:
        pass


def read_events(
    path: Path, offset: int = 0, most_bytes: int | None = None
) -> tuple[list[Event], int]:
    """Events from byte `offset` on, and the offset to go on from.

    A last line without its newline is left for the next call. With `most_bytes` a long file comes
    in parts: an offset that did not move says that there is no more.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(-1 if most_bytes is None else most_bytes)
            if most_bytes is not None and len(data) == most_bytes and b"\n" not in data:
                data += file.readline()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    lines = [line for line in whole.splitlines() if line.strip()]
    events = [_event(raw) for raw in _parse(lines)]
    return [event for event in events if event is not None], offset + len(whole)


def _parse(lines: list[bytes]) -> list[Any]:
    """Each line's value; None for one that is damaged: the rest still tells the story."""
    try:
        values = json.loads(b"[" + b",".join(lines) + b"]")  # twice as fast as line by line
    except ValueError:
        values = None
    return values if values is not None and len(values) == len(lines) else [*map(_value, lines)]


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _event(raw: Any) -> Event | None:
    try:
        return Event(int(raw["seq"]), float(raw["at"]), str(raw["kind"]), dict(raw["body"]))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
