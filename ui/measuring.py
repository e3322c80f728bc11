"""Two steps of a run, measured on request, in the background; the process is the planner's own."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Literal

from lora_diffusion.errors import InputError, printable
from trainers.planner.probe import Cancelled, Probe, probe
from trainers.spec import JobSpec
from ui import words

State = Literal["idle", "running", "done", "failed"]


@dataclass(frozen=True)
class Measured:
    """How the measuring stands; `text` is its progress, its result, or why there is none."""

    state: State = "idle"
    text: str = ""
    seconds: float | None = None  # of the whole run, steps only

    def as_json(self) -> dict[str, Any]:
        """What the page is told."""
        return {"state": self.state, "text": self.text, "seconds": self.seconds}


class Measuring:
    """One measuring at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self._measured = Measured()

    def start(self, spec: JobSpec) -> None:
        """Begin to measure.

        Raises:
            InputError: one is under way.
        """
        with self._lock:
            if self._measured.state == "running":
                raise InputError("Something is being measured already. Cancel it, or wait.")
            self._cancelled = threading.Event()
            self._measured = Measured("running", "Starting")
            self._thread = threading.Thread(
                target=self._work, args=(spec, self._cancelled), daemon=True
            )
            self._thread.start()

    def look(self) -> Measured:
        """How it stands."""
        return self._measured

    def cancel(self) -> None:
        """End it; its process goes with it."""
        self._cancelled.set()

    def close(self) -> None:
        """End it and wait for its process to be gone."""
        self.cancel()
        if self._thread is not None:
            self._thread.join(10)

    def _work(self, spec: JobSpec, cancelled: threading.Event) -> None:
        def tell(text: str) -> None:
            self._measured = Measured("running", printable(text, 200))

        try:
            found = probe(spec, on_progress=tell, is_cancelled=cancelled.is_set)
        except Cancelled:
            self._measured = Measured()
        except InputError as error:
            self._measured = Measured("failed", printable(error, 400))
        except OSError as error:
            reason = printable(error.strerror or error, 200)
            self._measured = Measured("failed", f"The computer refused: {reason}.")
        else:
            steps = spec.schedule.steps
            seconds = found.step_seconds * steps if steps else None
            self._measured = Measured("done", _told(found), seconds)


def _told(found: Probe) -> str:
    where = "the CPU" if found.device == "cpu" else "the GPU"
    pace = words.duration(found.step_seconds) if found.step_seconds >= 10 else (
        f"{found.step_seconds:.2f} s"
    )  # fmt: skip
    return (
        f"Measured on {where}: {found.peak / 2**30:.1f} GB while training, {pace} a step of "
        f"{found.batch_size} × {found.width_px} × {found.height_px} px."
    )
