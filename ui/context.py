"""What all tabs share: where runs lie, what may be fetched, who draws."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from trainers.queue import Queue, Scheduler
from ui.drawing import Drawer
from ui.follow import Followers
from ui.gate.shelf import Shelf
from ui.gate.uploads import Uploads
from ui.hardware import Hardware
from ui.measuring import Measuring
from ui.tasks import Tasks


@dataclass(frozen=True)
class Context:
    """One launch of the studio."""

    runs: Path
    models: Path | None
    adapters: Path
    shelf: Shelf
    followers: Followers
    queue: Queue
    scheduler: Scheduler
    drawer: Drawer
    tasks: Tasks
    hardware: Hardware
    measuring: Measuring
    uploads: Uploads

    def open(self) -> None:
        """Look after the queue, and read ahead what the first page will show."""
        self.scheduler.open()
        threading.Thread(target=self.followers.warm, daemon=True).start()

    @property
    def datasets(self) -> Path:
        """Where pictures are kept that were dropped into the page: beside the runs."""
        return self.runs.parent / "datasets"

    def close(self) -> None:
        """End the processes that belong to the studio, and delete what was uploaded; runs go on."""
        self.scheduler.close()
        self.measuring.close()
        self.drawer.close()
        self.tasks.close()
        self.uploads.close()


def open_context(runs: Path, models: Path | None, adapters: Path | None = None) -> Context:
    """A fresh context; nothing is started before `open`, or before it is needed.

    Args:
        adapters: the library folder; None is `adapters` beside the runs.
    """
    queue = Queue(runs)
    return Context(
        runs=runs,
        models=models,
        adapters=adapters or runs.parent / "adapters",
        shelf=Shelf(),
        followers=Followers(runs),
        queue=queue,
        scheduler=Scheduler(queue),
        drawer=Drawer(),
        tasks=Tasks(),
        hardware=Hardware(),
        measuring=Measuring(),
        uploads=Uploads(),
    )
