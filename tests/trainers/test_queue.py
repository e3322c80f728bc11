"""The queue: an order on disk, one run after another, whatever becomes of each."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from trainers import jobs, queue
from trainers.events import EventLog, read_events
from trainers.jobs import RunDir
from trainers.layering import build_spec
from trainers.queue import Queue, Scheduler, Waiting


@pytest.fixture
def line(tmp_path: Path) -> Queue:
    """Three waiting runs: a, b, c."""
    made = Queue(tmp_path)
    for name in "abc":
        made.add(jobs.prepare(tmp_path, name, build_spec([])))
    return made


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """Runs as they are started; each is a process that sleeps until it is killed."""
    calls: list[tuple[str, bool]] = []
    processes = []

    def start(run: RunDir, *, resume: bool = False) -> int:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        processes.append(process)
        jobs.record_process(run, process.pid)
        calls.append((run.path.name, resume))
        return process.pid

    monkeypatch.setattr(jobs, "start", start)
    yield calls
    for process in processes:
        process.kill()
        process.wait()


def _end(run: Path, outcome: str) -> None:
    """End a run's process with that outcome."""
    log = EventLog(RunDir(run).events_file)
    log.write(outcome)
    log.close()
    RunDir(run).process_file.write_text('{"pid": 1, "created": 1.0}')


def test_the_order_survives_on_disk(line: Queue, tmp_path: Path) -> None:
    line.move("c", 0)
    line.move("a", 99)
    assert Queue(tmp_path).names() == ["c", "b", "a"]
    line.remove("b")
    assert Queue(tmp_path).names() == ["c", "a"] and (tmp_path / "b/spec.toml").is_file()
    with pytest.raises(InputError, match="no longer waiting"):
        line.move("b", 0)


def test_one_at_a_time_and_a_failure_does_not_block_the_next(
    line: Queue, tmp_path: Path, started: list[tuple[str, bool]]
) -> None:
    assert line.start_next() == RunDir(tmp_path / "a")
    assert line.start_next() is None and line.names() == ["b", "c"]
    for name, outcome in (("a", "finished"), ("b", "failed"), ("c", "finished")):
        assert started[-1][0] == name
        _end(tmp_path / name, outcome)
        line.start_next()
    assert [name for name, _ in started] == ["a", "b", "c"]
    assert line.start_next() is None


def test_a_run_to_be_resumed_waits_like_any_other(
    line: Queue, tmp_path: Path, started: list[tuple[str, bool]]
) -> None:
    line.start_next()
    _end(tmp_path / "a", "stopped")
    line.add(RunDir(tmp_path / "a"), resume=True)
    assert line.waiting()[-1] == Waiting("a", resume=True)
    for name in "bc":
        line.start_next()
        _end(tmp_path / name, "finished")
    line.start_next()
    assert started[-1] == ("a", True)


def test_one_that_cannot_start_is_a_failed_run(
    line: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_run: RunDir, *, resume: bool = False) -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(jobs, "start", refuse)
    for name in "abc":
        assert line.start_next() == RunDir(tmp_path / name)
        events, _ = read_events(tmp_path / name / "events.jsonl")
        assert "Cannot allocate memory" in events[-1].body["text"]
    assert line.names() == []


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", '{"waiting": 3}', '{"waiting": [1, {"name": 2}, {"name": ".."}]}',
     '{"waiting": [{"name": "../a"}, {"name": "/etc"}, {"name": ""}]}'],
)  # fmt: skip
def test_a_damaged_file_is_an_empty_queue(line: Queue, tmp_path: Path, text: str) -> None:
    (tmp_path / "queue.json").write_text(text)
    assert line.names() == []
    line.add(RunDir(tmp_path / "b"))
    assert line.names() == ["b"]


def test_a_run_of_a_sweep_waits_by_its_sweeps_name(line: Queue, tmp_path: Path) -> None:
    member = RunDir(tmp_path / "ranks/rank-4")
    member.path.mkdir(parents=True)
    member.spec_file.write_text("")
    line.add(member)
    assert line.names()[-1] == "ranks/rank-4"
    for elsewhere in ("../a", "a/../b", "ranks/rank-4/", "/ranks", "a/b/c"):
        (tmp_path / "queue.json").write_text(json.dumps({"waiting": [{"name": elsewhere}]}))
        assert line.names() == []


def test_what_was_started_or_deleted_elsewhere_no_longer_waits(line: Queue, tmp_path: Path) -> None:
    (tmp_path / "a/spec.toml").unlink()
    _end(tmp_path / "b", "finished")
    assert line.names() == ["c"]


def test_two_studios_start_a_run_once(
    line: Queue, tmp_path: Path, started: list[tuple[str, bool]]
) -> None:
    lines = [Queue(tmp_path) for _ in range(8)]
    threads = [threading.Thread(target=each.start_next) for each in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started == [("a", False)]


def test_the_scheduler_goes_on_by_itself_and_ends_when_closed(
    line: Queue, tmp_path: Path, started: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0
    real = Queue.start_next

    def full_at_first(self: Queue) -> RunDir | None:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise OSError(28, "No space left on device")
        return real(self)

    monkeypatch.setattr(queue.Queue, "start_next", full_at_first)
    scheduler = Scheduler(line, every_seconds=0.02)
    scheduler.open()
    deadline = time.monotonic() + 5
    while not started and time.monotonic() < deadline:
        time.sleep(0.02)
    scheduler.close()
    _end(tmp_path / "a", "finished")
    time.sleep(0.1)
    assert [name for name, _ in started] == ["a"]
