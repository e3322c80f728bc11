"""What all tabs share: where runs lie, what may be fetched, who draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ui.drawing import Drawer
from ui.follow import Followers
from ui.hardware import Hardware
from ui.shelf import Shelf
from ui.tasks import Tasks
from ui.uploads import Uploads


@dataclass(frozen=True)
class Context:
    """One launch of the studio."""

    runs: Path
    models: Path | None
    adapters: Path
    shelf: Shelf
    followers: Followers
    drawer: Drawer
    tasks: Tasks
    hardware: Hardware
    uploads: Uploads

    def close(self) -> None:
        """End the processes that belong to the studio, and delete what was uploaded."""
        self.drawer.close()
        self.tasks.close()
        self.uploads.close()


def open_context(runs: Path, models: Path | None, adapters: Path | None = None) -> Context:
    """A fresh context; nothing is started before it is needed.

    Args:
        adapters: the library folder; None is `adapters` beside the runs.
    """
    return Context(
        runs=runs,
        models=models,
        adapters=adapters or runs.parent / "adapters",
        shelf=Shelf(),
        followers=Followers(runs),
        drawer=Drawer(),
        tasks=Tasks(),
        hardware=Hardware(),
        uploads=Uploads(),
    )
