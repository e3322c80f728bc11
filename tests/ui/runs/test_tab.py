"""What the Runs page may ask, and what it is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ui.made_runs import make_run, make_sweep, make_waiting
from trainers import control, jobs
from trainers.jobs import RunDir
from trainers.layering import build_spec
from trainers.queue import Waiting
from ui.context import Context
from ui.runs import tab as runs_tab
from ui.runs.tab import server_functions
from ui.train import form


@pytest.fixture
def ask(context: Context) -> Any:
    """`ask(name, request)`."""
    functions = {f.__name__: f for f in server_functions(context)}
    return lambda name, request=None: functions[name](request)


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
    assert len(ask("studio_poll")["cards"]) == 6


def test_nothing_new_is_said_shortly(ask: Any, every_state: Path) -> None:
    first = ask("studio_poll", {"run": "failed"})
    again = ask("studio_poll", {"run": "failed", "seen": first["seen"]})
    assert again["same"] and again["run"] is None
    other = ask("studio_poll", {"run": "stopped", "seen": first["seen"]})
    assert other["run"]["id"] == "stopped"


_NAMES = (
    "studio_stop", "studio_pause", "studio_unpause", "studio_save", "studio_sample",
    "studio_resume", "studio_unqueue", "studio_log", "studio_settings",
)  # fmt: skip


@pytest.mark.parametrize("request_", [None, [], "x", 3, {"run": {}}, {"run": ["a"]}, {"run": "no"}])
@pytest.mark.parametrize("name", _NAMES)
def test_odd_requests_get_one_sentence(
    ask: Any, context: Context, every_state: Path, name: str, request_: Any
) -> None:
    assert ask(name, request_) == {"error": "That run is gone. Choose another one."}
    assert not context.queue.names()
    json.dumps(ask("studio_poll", request_))


@pytest.mark.parametrize("name", _NAMES[:5])
def test_what_has_ended_cannot_be_steered(ask: Any, every_state: Path, name: str) -> None:
    for run in ("finished", "failed", "stopped", "interrupted"):
        assert ask(name, {"run": run}) == {"error": "That run has ended already."}
        assert not (every_state / run / "control").exists()


def test_a_run_is_steered_by_its_control_files(ask: Any, every_state: Path) -> None:
    folder = every_state / "running/control"
    for name in ("studio_pause", "studio_save", "studio_sample"):
        assert ask(name, {"run": "running"}) == {}
    assert control.is_paused(folder) and control.take(folder) == ["save", "sample"]
    assert ask("studio_unpause", {"run": "running"}) == {}
    assert not control.is_paused(folder)


def test_resume_and_start_go_through_the_line(ask: Any, context: Context, runs: Path) -> None:
    make_run(runs, "stopped", steps=20, reached=12, outcome="stopped")
    spec = make_run(runs, "other", steps=4).spec()
    prepared = jobs.prepare(runs, "prepared", spec)
    assert ask("studio_resume", {"run": "stopped"}) == {}
    assert ask("studio_resume", {"run": prepared.path.name}) == {}
    assert context.queue.waiting() == [Waiting("stopped", resume=True), Waiting("prepared")]


def test_resuming_with_less_memory_changes_what_costs_it(ask: Any, context: Context) -> None:
    run = make_run(context.runs, "failed", steps=20, reached=12, outcome="failed")
    assert ask("studio_resume", {"run": "failed", "less_memory": True}) == {}
    changed = run.spec()
    assert changed.model.gradient_checkpointing and changed.model.low_memory
    assert changed.schedule == build_spec([{"schedule": {"steps": 20}}]).schedule


def test_the_order_of_the_line_and_what_it_waits_for(ask: Any, every_state: Path) -> None:
    make_waiting(every_state, "one", "two", "three")
    assert ask("studio_move", {"run": "three", "place": 0}) == {"waiting": ["three", "one", "two"]}
    cards = [c for c in ask("studio_poll", {})["cards"] if c["status"] == "waiting"]
    assert [c["id"] for c in cards] == ["three", "one", "two"]
    assert "running" in ask("studio_poll", {"run": "three"})["run"]["note"]["text"]
    assert "number 3" in ask("studio_poll", {"run": "two"})["run"]["note"]["text"]
    assert ask("studio_unqueue", {"run": "one"}) == {"waiting": ["three", "two"]}
    assert ask("studio_poll", {"run": "one"})["run"]["status"] == "prepared"
    for place in (None, "x", 1.5):
        assert "not a number" in ask("studio_move", {"run": "two", "place": place})["error"]
    assert "no longer waiting" in ask("studio_move", {"run": "one", "place": 0})["error"]


def test_the_demo_is_one_click(ask: Any, context: Context, runs: Path) -> None:
    assert ask("studio_demo", {}) == {"run": "demo-character"}
    assert context.queue.names() == ["demo-character"]
    assert RunDir(runs / "demo-character").spec().data.folder == "bundled:demo_character"


def test_runs_are_compared(ask: Any, runs: Path) -> None:
    make_run(runs, "a", steps=2_000, every=1_000)
    make_run(runs, "b", steps=20, every=10)
    answer = ask("studio_compare", {"runs": ["a", "b"]})
    rows = {row["setting"]: row["values"] for row in answer["settings"]}
    assert rows["schedule.steps"] == ["2000", "20"] and "adapter.rank" not in rows
    assert [len(run["curve"]["steps"]) for run in answer["runs"]] == [400, 20]
    assert answer["runs"][0]["pictures"][0]["url"].startswith("/studio/picture/")
    for wrong in ([], ["a"], ["a", "b"] * 3):
        assert "Tick two" in ask("studio_compare", {"runs": wrong})["error"]
    assert "gone" in ask("studio_compare", {"runs": ["a", "../b"]})["error"]


def test_the_runs_of_a_sweep_are_runs(ask: Any, context: Context, runs: Path) -> None:
    make_sweep(runs, "ranks", (4, 8))
    make_run(runs, "alone", steps=20, every=10)
    (runs / "ranks/rank-4/exports/spec.toml").write_text("")  # no run folder
    cards = {card["id"]: card for card in ask("studio_poll")["cards"]}
    assert {name: card["sweep"] for name, card in cards.items()} == {
        "ranks/rank-4": "ranks", "ranks/rank-8": "ranks", "alone": "",
    }  # fmt: skip
    assert cards["ranks/rank-8"]["title"] == "ranks / rank-8"
    shown = ask("studio_poll", {"run": "ranks/rank-8"})["run"]
    assert shown["id"] == "ranks/rank-8" and shown["together"] == 1
    assert shown["curve"]["steps"][-1] == 20 and len(shown["previews"]) == 3
    compared = ask("studio_compare", {"runs": ["ranks/rank-4", "ranks/rank-8"]})
    assert compared["settings"] == [{"setting": "adapter.rank", "values": ["4", "8"]}]
    assert "rank = 4" in ask("studio_settings", {"run": "ranks/rank-4"})["text"]
    for wrong in ("ranks", "rank-8", "ranks/../ranks/rank-8", "ranks/rank-4/exports"):
        assert "gone" in ask("studio_log", {"run": wrong})["error"]


def test_stopping_one_run_of_a_sweep_says_how_many_stop(ask: Any, runs: Path) -> None:
    make_sweep(runs, "ranks", (4, 8, 16), alive=True)
    make_sweep(runs, "others", (4,), alive=True)
    assert ask("studio_poll", {"run": "ranks/rank-8"})["run"]["together"] == 3


def test_a_run_of_a_sweep_goes_on_by_itself(ask: Any, context: Context, runs: Path) -> None:
    make_sweep(runs, "ranks", (4, 8), alive=True)
    for name in ("rank-4", "rank-8"):
        (runs / "ranks" / name / "process.json").write_text('{"pid": 1, "created": 1.0}')
    assert ask("studio_poll", {"run": "ranks/rank-8"})["run"]["resumable"]
    assert ask("studio_resume", {"run": "ranks/rank-8"}) == {}
    assert context.queue.waiting() == [Waiting("ranks/rank-8", resume=True)]
    assert ask("studio_poll", {"run": "ranks/rank-8"})["run"]["status"] == "waiting"


def test_what_a_run_tells(ask: Any, every_state: Path) -> None:
    told = ask("studio_explain", {"run": "finished"})
    assert told["headline"] and all(each["text"] for each in told["advice"])
    known = {field.name for field in form.fields()} | {""}
    assert {each["setting"] for each in told["advice"]} <= known
    assert "gone" in ask("studio_explain", {"run": "nope"})["error"]


def test_a_full_disk_is_a_sentence(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> RunDir:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs_tab.jobs, "prepare", full)
    assert ask("studio_demo", {}) == {"error": "The disk refused: No space left on device."}
