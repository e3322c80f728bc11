"""Runs read from their folders, as they grow."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import ui.follow
from tests.ui.made_runs import make_run
from trainers import jobs
from trainers.events import Event, EventLog, read_events
from ui.follow import Follower, Followers
from ui.gate.shelf import Shelf
from ui.runs import view as run_view


def test_only_new_events_are_read(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower(make_run(runs, "a", steps=20, every=10, reached=12, outcome=None))
    assert follower.catch_up().step == 12
    before = follower.offset
    log = EventLog(follower.run.events_file)
    log.write("step", step=13, loss=0.1, lr=1e-4, grad_norm=1, seconds=0.1, peak_bytes=0)
    reads: list[int] = []

    def noted(path: Path, offset: int, most_bytes: int) -> tuple[list[Event], int]:
        reads.append(offset)
        return read_events(path, offset, most_bytes)

    monkeypatch.setattr(ui.follow, "read_events", noted)
    assert follower.catch_up().step == 13
    follower.catch_up()
    assert reads == [before]


def test_half_a_line_waits_for_its_end(runs: Path) -> None:
    follower = Follower(make_run(runs, "a", steps=20, reached=5, outcome=None))
    follower.catch_up()
    body = {"step": 6, "loss": 0.1, "lr": 0, "seconds": 1}
    line = json.dumps({"seq": 99, "at": 1.0, "kind": "step", "body": body})
    with follower.run.events_file.open("a") as file:
        file.write(line[:20])
        file.flush()
        assert follower.catch_up().step == 5
        file.write(line[20:] + "\n")
    assert follower.catch_up().step == 6


@pytest.mark.parametrize(
    ("name", "expected"),
    [("finished", "finished"), ("failed", "failed"), ("stopped", "stopped"),
     ("interrupted", "interrupted"), ("running", "running")],
)  # fmt: skip
def test_status(every_state: Path, name: str, expected: str) -> None:
    follower = Followers(every_state).get(name)
    assert follower is not None and follower.status() == expected


def test_an_outcome_counts_before_its_process_has_gone(runs: Path) -> None:
    run = make_run(runs, "a", steps=4, outcome="finished")
    jobs.record_process(run, os.getpid())
    process = json.loads(run.process_file.read_text())
    process["created"] -= 1  # within the tolerance, and before the outcome
    lines = run.events_file.read_text().splitlines()
    last = json.loads(lines[-1]) | {"at": process["created"] + 5}
    run.events_file.write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    follower = Follower(run)
    follower.catch_up()
    assert follower.status() == "finished"


def test_a_resumed_process_outweighs_the_old_outcome(runs: Path) -> None:
    run = make_run(runs, "a", steps=20, reached=12, outcome="stopped")
    lines = [json.loads(line) | {"at": 1000.0} for line in run.events_file.read_text().splitlines()]
    run.events_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    jobs.record_process(run, os.getpid())
    follower = Follower(run)
    follower.catch_up()
    assert follower.status() == "running"


def test_resuming_goes_over_the_lost_steps_again(runs: Path) -> None:
    run = make_run(runs, "a", steps=20, every=5, reached=14, outcome="stopped")
    follower = Follower(run)
    assert sorted(follower.catch_up().previews) == [0, 5, 10]
    log = EventLog(run.events_file)
    log.write("started", total_steps=20, pictures=14, resumed_at=9)
    progress = follower.catch_up()
    assert progress.step == 9 and sorted(progress.previews) == [0, 5] and progress.outcome is None


def test_a_folder_made_anew_under_the_same_name_is_read_anew(runs: Path) -> None:
    followers = Followers(runs)
    make_run(runs, "a", steps=20, reached=5, outcome=None)
    first = followers.get("a")
    assert first is not None and first.progress.step == 5
    shutil.rmtree(runs / "a")
    make_run(runs, "a", steps=40, reached=30, outcome=None)
    again = followers.get("a")
    assert again is not None and again.progress.step == 30 and again.progress.total == 40


@pytest.mark.parametrize(
    "name", ["../runs/a", "..", ".", "", "a/", None, 7, ["a"], {"a": 1}, "\x00"]
)
def test_only_names_of_runs_find_runs(runs: Path, name: object) -> None:
    make_run(runs, "a", steps=4)
    assert Followers(runs).get(name) is None


@pytest.mark.parametrize(
    "body",
    [{}, {"step": "x"}, {"step": None, "loss": None}, {"loss": "NaN"}, {"pictures": 3},
     {"pictures": [1, {"file": ["a"]}]}, {"total_steps": [], "resumed_at": {}}, {"file": 5},
     {"text": ["x"], "done": "y"}],
)  # fmt: skip
@pytest.mark.parametrize(
    "kind", ["started", "phase", "step", "preview", "checkpoint", "export", "note", "finished",
             "failed", "stopped", "unheard of"],
)  # fmt: skip
def test_odd_bodies_break_nothing(runs: Path, kind: str, body: dict[str, object]) -> None:
    run = make_run(runs, "a", steps=4, reached=2, outcome=None)
    with run.events_file.open("a") as file:
        file.write(json.dumps({"seq": 99, "at": 1.0, "kind": kind, "body": body}) + "\n")
    follower = Follower(run)
    follower.catch_up()
    json.dumps(run_view.card(follower, Shelf()), allow_nan=False)
    json.dumps(run_view.view(follower, Shelf()), allow_nan=False)


def test_a_list_reads_only_the_end_of_a_long_run(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui.follow, "_GLANCE_BYTES", 2_000)
    run = make_run(runs, "a", steps=300, every=100, outcome="finished")
    follower = Follower(run)
    seen = follower.glance()
    assert follower.offset == 0 and follower.status() == "finished"
    assert (seen.step, seen.total, len(seen.loss.steps) < 30) == (300, 300, True)
    card = run_view.card(follower, Shelf())
    assert card["status"] == "finished" and card["line"] == "1 min 27 s · 300 steps"
    assert follower.catch_up().loss.steps == list(range(1, 301))
    assert follower.glance() is follower.progress
