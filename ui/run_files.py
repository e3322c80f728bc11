"""Files of a run that its events name."""

from __future__ import annotations

from pathlib import Path

from trainers.jobs import RunDir


def inside(run: RunDir, relative: object) -> Path | None:
    """A file that an event names, if it really lies in the run's folder."""
    if not isinstance(relative, str):
        return None
    try:
        path = (run.path / relative).resolve()
        return path if path.is_relative_to(run.path.resolve()) and path.is_file() else None
    except (OSError, ValueError):
        return None
