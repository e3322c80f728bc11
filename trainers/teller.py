"""Says a thing to both audiences at once: the event file and the person at the terminal."""

from __future__ import annotations

from collections.abc import Callable

from trainers.events import EventLog
from trainers.loop import StepResult
from trainers.progress import Reporter
from trainers.stopping import StopSignal


class Teller:
    """Events and standard error of one run."""

    def __init__(self, events: EventLog, stop: StopSignal) -> None:
        self.events = events
        self.reporter = Reporter()
        self._stop = stop

    def phase(self, name: str, text: str) -> None:
        """Something slow begins."""
        self.events.write("phase", name=name, text=text)
        self.reporter.say(text)

    def counter(self, name: str, text: str) -> Callable[[int, int], None]:
        """A callback for (done, total) of a slow phase; it is also where Ctrl-C is noticed."""

        def count(done: int, total: int) -> None:
            self._stop.check()
            self.events.write("phase", name=name, text=text, done=done, total=total)
            self.reporter.count(text, done, total)

        return count

    def note(self, text: str) -> None:
        """Something that a user should know."""
        self.events.write("note", text=text)
        self.reporter.say(text)

    def step(self, result: StepResult) -> None:
        """One step is done."""
        self.events.write(
            "step",
            step=result.step,
            loss=_finite_or_none(result.loss),
            lr=result.lr,
            grad_norm=_finite_or_none(result.grad_norm),
            seconds=round(result.seconds, 4),
            peak_bytes=result.peak_bytes,
        )
        self.reporter.step(result.step, result.loss)


def _finite_or_none(value: float) -> float | None:
    return value if value - value == 0 else None
