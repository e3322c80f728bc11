"""The doctor's look at an open folder: in a process of its own where many pictures are new."""

from __future__ import annotations

import threading
import time
from typing import Any

from lora_diffusion.errors import InputError
from trainers.data.mends import mends
from ui import words
from ui.dataset.folder import OpenFolder, Snapshot
from ui.tasks import Task, Tasks

# kind of problem -> (one, several), as the strip says it
_WORDS = {
    "duplicate": ("duplicate", "duplicates"),
    "near-duplicate": ("look-alike", "look-alikes"),
    "unreadable-picture": ("unreadable", "unreadable"),
    "too-small": ("tiny", "tiny"),
    "enlarged": ("small", "small"),
    "crop-loss": ("cropped hard", "cropped hard"),
    "flat": ("one colour", "one colour"),
    "animation": ("animation", "animations"),
    "wrong-ending": ("wrong ending", "wrong endings"),
    "caption-encoding": ("odd encoding", "odd encodings"),
    "empty-caption": ("empty caption", "empty captions"),
    "shared-caption": ("shared caption", "shared captions"),
    "caption-without-picture": ("stray text", "stray texts"),
    "contradictory-captions": ("contradiction", "contradictions"),
    "missing-caption": ("without a caption", "without a caption"),
    "no-captions": ("no captions yet", "no captions yet"),
    "long-caption": ("long caption", "long captions"),
    "unread-type": ("file not read", "files not read"),
}
_POLL_SECONDS = 0.2
_PAGE_FIRST_SECONDS = 1.0  # for the page to fetch what it shows, before threads share the processor
_UNTOLD = frozenset({"no-tokenizer", "no-caption"})


class Looking:
    """Looks at one folder until the doctor knows every picture."""

    def __init__(self, opened: OpenFolder, tasks: Tasks) -> None:
        self._opened = opened
        self._tasks = tasks
        self._lock = threading.Lock()
        self._task: Task | None = None
        self._thread: threading.Thread | None = None
        self._is_quiet = False
        self._failed_at = 0
        self.error = ""

    def begin(self) -> None:
        """Start looking where that is needed and not under way."""
        with self._lock:
            snapshot = self._opened.snapshot
            if snapshot.report or not snapshot.pictures or snapshot.version == self._failed_at:
                return
            if self._thread is None or not self._thread.is_alive():
                self.error = ""
                self._thread = threading.Thread(target=self._look, daemon=True)
                self._thread.start()

    def told(self) -> dict[str, Any] | None:
        """How far the look is, and whether it is too short for words; None where it is over."""
        if self._thread is None or not self._thread.is_alive():
            return None
        return {"share": self._task.share if self._task else None, "quiet": self._is_quiet}

    def _look(self) -> None:
        self._task, self._is_quiet = None, self._opened.few_unseen()
        try:
            if self._is_quiet:
                time.sleep(_PAGE_FIRST_SECONDS)
                self._opened.examine()
                return
            verb = ["doctor", str(self._opened.path), "--json"]
            self._task = self._tasks.start("Looking at the pictures", verb)
            while self._task.state == "running":
                time.sleep(_POLL_SECONDS)
            self._opened.examine()  # out of the index that the process has filled
        except (InputError, OSError) as error:
            self.error = str(error)
            self._failed_at = self._opened.snapshot.version  # not again before something changes


def strip(snapshot: Snapshot) -> list[dict[str, Any]]:
    """`3 duplicates`, `2 tiny`: kind, words, how grave, and what its Fix does."""
    counts: dict[str, tuple[str, set[str]]] = {}
    for problem in snapshot.found.problems:
        if problem.kind in _UNTOLD:
            continue
        _, files = counts.setdefault(problem.kind, (problem.severity, set()))
        files.add(problem.file)
    return [
        {
            "kind": kind,
            "text": said(kind, len(files)),
            "count": len(files),
            "severity": severity,
            "fix": mends(kind),
            "shown": any(kind in {p.kind for p in each} for each in snapshot.problems.values()),
        }
        for kind, (severity, files) in counts.items()
    ]


def said(kind: str, number: int) -> str:
    """`2 tiny`."""
    one, many = _WORDS.get(kind, (kind.replace("-", " "),) * 2)
    return one if kind == "no-captions" else words.counted(number, one, many)


def badge(kind: str) -> str:
    """`tiny`, on the picture itself."""
    return _WORDS.get(kind, (kind.replace("-", " "), ""))[0]
