"""Says a thing to both audiences at once: the event file and the person at the terminal."""

from __future__ import annotations

from collections.abc import Callable

from lora_diffusion.errors import printable
from trainers.data.doctor import Report
from trainers.events import EventLog
from trainers.loop import StepResult
from trainers.machine.memory import Savings
from trainers.progress import Reporter
from trainers.stopping import StopSignal

_MAX_LINES = 10
_MAX_PROBLEMS = 200


class Teller:
    """Events and standard error of one run."""

    def __init__(
        self, events: EventLog, stop: StopSignal, reporter: Reporter | None = None
    ) -> None:
        self.events = events
        self.reporter = reporter or Reporter()
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

    def saving(self, savings: Savings, text: str) -> None:
        """Memory ran out, and more is saved from here on."""
        self.events.write("memory", **savings.as_json())
        self.note(text)

    def doctor(self, report: Report) -> None:
        """What is wrong with the dataset, if anything: once, and in short at the terminal."""
        if not report.problems:
            return
        body = report.as_json()
        problems = body.pop("problems")[:_MAX_PROBLEMS]
        self.events.write("doctor", **body, problems=problems)
        warnings = [str(p) for p in report.problems if p.severity == "warning"]
        more = len(warnings) - _MAX_LINES
        rest = [f"… and {more} more warnings; lora-diffusion doctor lists them"] if more > 0 else []
        for line in (*warnings[:_MAX_LINES], *rest, report.summary()):
            self.reporter.say(line)

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
        if result.skipped:
            more = len(result.skipped) - _MAX_LINES
            names = ", ".join(map(printable, result.skipped[:_MAX_LINES]))
            self.note(
                f"Step {result.step} was left out, its loss or gradient is not a finite number. "
                f"Pictures: {names}" + (f" and {more} more." if more > 0 else ".")
            )
        self.reporter.step(result.step, result.loss)


def _finite_or_none(value: float) -> float | None:
    return value if value - value == 0 else None
