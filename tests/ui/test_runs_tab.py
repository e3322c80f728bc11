"""What the Runs page may ask, and what it is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ui.made_runs import make_run
from trainers import jobs
from trainers.jobs import RunDir
from ui import runs_tab
from ui.context import Context
from ui.runs_tab import server_functions


@pytest.fixture
def ask(context: Context) -> Any:
    """`ask(name, request)`."""
    functions = {f.__name__: f for f in server_functions(context)}
    return lambda name, request=None: functions[name](request)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Runs that would have been started."""
    calls: list[tuple[str, bool]] = []

    def start(run: RunDir, *, resume: bool = False) -> int:
        calls.append((run.path.name, resume))
        return 1

    monkeypatch.setattr(jobs, "start", start)
    return calls


def test_nothing_to_show(ask: Any) -> None:
    answer = ask("studio_poll", {})
    assert (answer["cards"], answer["run"], answer["seen"]) == ([], None, "")
    assert " of " in answer["machine"]


def test_names_cannot_clash_with_gradios_attributes(context: Context) -> None:
    names = [f.__name__ for f in server_functions(context)]
    assert all(name.startswith("studio_") for name in names) and len(set(names)) == len(names)


def test_the_running_run_comes_first_unless_another_is_asked_for(
    ask: Any, every_state: Path
) -> None:
    assert ask("studio_poll", {})["run"]["id"] == "running"
    assert ask("studio_poll", {"run": "failed"})["run"]["id"] == "failed"
    assert ask("studio_poll", {"run": "../failed"})["run"]["id"] == "running"
    assert len(ask("studio_poll")["cards"]) == 5


def test_nothing_new_is_said_shortly(ask: Any, every_state: Path) -> None:
    first = ask("studio_poll", {"run": "failed"})
    again = ask("studio_poll", {"run": "failed", "seen": first["seen"]})
    assert again["same"] and "run" not in again
    other = ask("studio_poll", {"run": "stopped", "seen": first["seen"]})
    assert other["run"]["id"] == "stopped"


@pytest.mark.parametrize("request_", [None, [], "x", 3, {"run": {}}, {"run": ["a"]}, {"run": "no"}])
@pytest.mark.parametrize("name", ["studio_stop", "studio_resume", "studio_log", "studio_settings"])
def test_odd_requests_get_one_sentence(
    ask: Any, every_state: Path, started: list[Any], name: str, request_: Any
) -> None:
    assert ask(name, request_) == {"error": "That run is gone. Choose another one."}
    assert not started
    json.dumps(ask("studio_poll", request_))


def test_resume_and_start(ask: Any, runs: Path, started: list[tuple[str, bool]]) -> None:
    make_run(runs, "stopped", steps=20, reached=12, outcome="stopped")
    spec = make_run(runs, "other", steps=4).spec()
    prepared = jobs.prepare(runs, "prepared", spec)
    assert ask("studio_resume", {"run": "stopped"}) == {}
    assert ask("studio_resume", {"run": prepared.path.name}) == {}
    assert started == [("stopped", True), ("prepared", False)]


def test_a_second_run_is_refused(ask: Any, every_state: Path, started: list[Any]) -> None:
    for name, request in (("studio_resume", {"run": "stopped"}), ("studio_demo", {})):
        assert "'running' is training now" in ask(name, request)["error"]
    assert not started


def test_the_demo_is_one_click(ask: Any, runs: Path, started: list[Any]) -> None:
    assert ask("studio_demo", {}) == {"run": "demo-character"}
    assert started == [("demo-character", False)]
    assert RunDir(runs / "demo-character").spec().data.folder == "bundled:demo_character"


def test_a_full_disk_is_a_sentence(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> RunDir:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs_tab.jobs, "prepare", full)
    assert ask("studio_demo", {}) == {"error": "The disk refused: No space left on device."}
