"""A studio on an empty folder, and one with runs in every state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ui import made_runs
from ui.context import Context, open_context


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An empty folder for runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def context(runs: Path) -> Iterator[Context]:
    """One launch of the studio on that folder."""
    opened = open_context(runs, None)
    yield opened
    opened.close()


@pytest.fixture
def every_state(runs: Path) -> Path:
    """Runs in every state but waiting, each named after its own."""
    made_runs.every_state(runs)
    return runs
