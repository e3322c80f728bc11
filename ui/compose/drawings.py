"""Draws what the page asks for, the newest request only: a slider that moves asks many times."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lora_diffusion.errors import InputError, printable
from ui.answers import disk_refused
from ui.drawing import Drawer, Drawing

_MAX_KEPT = 60

State = Literal["waiting", "drawing", "done", "failed", "replaced"]


@dataclass
class Job:
    """One request: the base alone and the mix, from the same noise."""

    drawing: Drawing
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    state: State = "waiting"
    text: str = ""
    share: float = 0.0
    error: str = ""
    before: Path | None = None
    after: Path | None = None


class Drawings:
    """One drawing at a time; a request that waits gives way to a newer one."""

    def __init__(self, drawer: Drawer) -> None:
        self._drawer = drawer
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._next: Job | None = None
        self._busy = False

    def ask(self, drawing: Drawing) -> Job:
        """Draw it as soon as the one at work is done."""
        job = Job(drawing)
        with self._lock:
            self._jobs[job.id] = job
            while len(self._jobs) > _MAX_KEPT:
                self._jobs.popitem(last=False)
            if self._next is not None:
                self._next.state = "replaced"
            self._next = job
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, daemon=True).start()
        return job

    def get(self, name: object) -> Job:
        """A job by its id.

        Raises:
            InputError: there is none; the studio was started anew.
        """
        job = self._jobs.get(name) if isinstance(name, str) else None
        if job is None:
            raise InputError("That picture is gone. Draw it again.")
        return job

    def _work(self) -> None:
        while True:
            with self._lock:
                job, self._next = self._next, None
                if job is None:
                    self._busy = False
                    return
            self._draw(job)

    def _draw(self, job: Job) -> None:
        job.state = "drawing"
        mix = job.drawing
        both = [mix] if not mix.adapters else [replace(mix, adapters=()), mix]
        try:
            made = [
                self._drawer.draw(one, _teller(job, number, len(both)))
                for number, one in enumerate(both)
            ]
        except InputError as error:
            job.error, job.state = printable(error, 500), "failed"
        except OSError as error:
            job.error, job.state = disk_refused(error), "failed"
        else:
            job.before, job.after = made[0], made[-1]
            job.state = "done"


def _teller(job: Job, number: int, of: int) -> Callable[[str, float], Any]:
    def tell(text: str, share: float) -> None:
        job.text, job.share = text, (number + share) / of

    return tell
