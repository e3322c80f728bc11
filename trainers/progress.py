"""What a run says on standard error: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_PLAIN_EVERY_SECONDS = 10.0
_FIRST_COUNT_SECONDS = 2.0
_SMOOTHING = 0.05
_SPEED_SMOOTHING = 0.1


class Reporter:
    """Prints phases, then the progress of steps with loss, speed and time left.

    Args:
        prefix: before each line, where several runs speak in turn; there is no live bar then.
        quiet: print nothing.
    """

    def __init__(self, prefix: str = "", *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.prefix = prefix
        self._live = sys.stderr.isatty() and not prefix and not quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._loss: float | None = None
        self._said_at = self._began = 0.0

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(self.prefix + text, markup=False, soft_wrap=True)

    def count(self, text: str, done: int, total: int) -> None:
        """How far a countable phase is and how long it goes on; at most a line every ten seconds.

        A phase begins with `done` = 0.
        """
        now = time.monotonic()
        if done == 0:
            self._began = now
            self._said_at = now - _PLAIN_EVERY_SECONDS + _FIRST_COUNT_SECONDS
        elif done == total or now - self._said_at >= _PLAIN_EVERY_SECONDS:
            self._said_at = now
            left = (now - self._began) / done * (total - done)
            tail = f", {duration(left)} left" if done < total else ""
            self.say(f"{text}: {done} of {total}{tail}")

    def begin(self, start: int, total: int) -> None:
        """The steps begin; `start` of `total` are done already."""
        self._total, self._began = total, time.monotonic()
        self._said_at = self._last = self._began
        self._seconds: float | None = None
        if self._live:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}  {task.fields[speed]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                "training", total=total, completed=start, loss="…", speed=""
            )

    def step(self, done: int, loss: float) -> None:
        """One more step is done."""
        if math.isfinite(loss):
            old = loss if self._loss is None else self._loss
            self._loss = old + _SMOOTHING * (loss - old)
        told = "…" if self._loss is None else f"{self._loss:.4f}"
        now = time.monotonic()
        taken, self._last = now - self._last, now
        before = taken if self._seconds is None else self._seconds
        self._seconds = before + _SPEED_SMOOTHING * (taken - before)
        speed = 1 / max(1e-9, self._seconds)
        shown = f"{speed:.2f} steps/s" if speed >= 1 else f"{1 / max(speed, 1e-9):.1f} s/step"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, loss=told, speed=shown)
        elif now - self._said_at >= _PLAIN_EVERY_SECONDS or done == self._total:
            self._said_at = now
            left = (self._total - done) / max(speed, 1e-9)
            self.say(f"step {done}/{self._total}  loss {told}  {shown}  {duration(left)} left")

    def end(self) -> None:
        """The steps are over; the bar stays where it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def silence_libraries() -> None:
    """Turn off the bars of transformers and diffusers, and bitsandbytes' word on kernels."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def duration(seconds: float) -> str:
    """`95` -> `1 min 35 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
