"""A studio on an empty folder, and one with runs in every state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ui.made_runs import make_run
from ui.context import Context, open_context


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An empty folder for runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def context(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """One launch of the studio on that folder."""
    monkeypatch.setenv("HOME", str(runs.parent))  # the library's index
    opened = open_context(runs, None)
    yield opened
    opened.close()


@pytest.fixture
def every_state(runs: Path) -> Path:
    """Runs that finished, failed, were stopped, were interrupted, and that is running."""
    make_run(runs, "finished", steps=20, every=10)
    make_run(runs, "failed", steps=20, every=10, reached=12, outcome="failed")
    make_run(runs, "stopped", steps=20, every=10, reached=12, outcome="stopped")
    make_run(runs, "interrupted", steps=20, every=10, reached=12, outcome=None)
    make_run(runs, "running", steps=20, every=10, reached=12, outcome=None, alive=True)
    return runs
