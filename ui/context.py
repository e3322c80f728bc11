"""What all tabs share: where runs lie, what may be fetched, who draws, what works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ui.drawing import Drawer
from ui.follow import Followers
from ui.shelf import Shelf
from ui.tasks import Tasks


@dataclass(frozen=True)
class Context:
    """One launch of the studio."""

    runs: Path
    models: Path | None
    shelf: Shelf
    followers: Followers
    drawer: Drawer
    tasks: Tasks


def open_context(runs: Path, models: Path | None) -> Context:
    """A fresh context; nothing is started before it is needed."""
    return Context(runs, models, Shelf(), Followers(runs), Drawer(), Tasks())
