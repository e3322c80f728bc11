"""Run folders and their processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from lora_diffusion.errors import InputError
from trainers import jobs
from trainers.events import EventLog
from trainers.jobs import RunDir
from trainers.layering import build_spec


def test_names_get_numbers_and_never_overwrite(tmp_path):
    made = [jobs.prepare(tmp_path, "my run/..", build_spec([])) for _ in range(3)]
    assert [r.path.name for r in made] == ["my-run", "my-run-2", "my-run-3"]
    assert made[0].spec() == build_spec([])
    assert {r.path for r in jobs.list_runs(tmp_path)} == {r.path for r in made}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("finished", "finished"),
        ("stopped", "stopped"),
        ("failed", "failed"),
        ("step", "interrupted"),
    ],
)
def test_the_last_event_is_the_outcome(tmp_path, kind, status):
    run = jobs.prepare(tmp_path, "r", build_spec([]))
    assert jobs.status(run) == "prepared"
    EventLog(run.events_file).write(kind)
    assert jobs.status(run) == status


def test_a_process_is_known_by_number_and_birth(tmp_path):
    run = jobs.prepare(tmp_path, "r", build_spec([]))
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        jobs.record_process(run, process.pid)
        assert jobs.is_alive(run)
        assert jobs.status(run) == "running"
        body = json.loads(run.process_file.read_text())
        run.process_file.write_text(json.dumps({**body, "created": body["created"] - 60}))
        assert not jobs.is_alive(run)
        run.process_file.write_text(json.dumps(body))
        assert jobs.stop(run)
        assert process.wait(10) != 0
        assert not jobs.is_alive(run)
        assert not jobs.stop(run)
    finally:
        process.kill()
        process.wait()


def test_a_run_has_one_worker(tmp_path):
    from filelock import FileLock

    from trainers.run import run
    from trainers.stopping import StopSignal

    folder = RunDir(tmp_path / "r")
    folder.path.mkdir()
    with FileLock(folder.lock_file), pytest.raises(InputError, match="another run"):
        run(build_spec([]), folder, StopSignal())


def test_a_second_start_does_not_hide_the_run_that_works(tmp_path, monkeypatch):
    run = jobs.prepare(tmp_path, "r", build_spec([]))
    jobs.record_own_process(run)
    before = run.process_file.read_text()
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    assert jobs.start(run) != json.loads(before)["pid"]
    assert run.process_file.read_text() == before


def test_a_long_event_file_is_read_from_its_tail(tmp_path):
    run = jobs.prepare(tmp_path, "r", build_spec([]))
    log = EventLog(run.events_file)
    for step in range(3000):
        log.write("step", step=step, loss=0.1)
    assert run.events_file.stat().st_size > 2 * 65_536
    assert jobs.last_event(run).body["step"] == 2999


@pytest.mark.parametrize("named", ["../outside.png", "/etc/hostname", "", "gone.png", "a\0b", 7])
def test_an_event_names_files_of_its_own_run_only(named, tmp_path):
    run = RunDir(tmp_path / "run")
    run.previews.mkdir(parents=True)
    (tmp_path / "outside.png").touch()
    inside = run.previews / "1.png"
    inside.touch()
    assert run.named(named) is None
    assert run.named("previews/../previews/1.png") == inside
