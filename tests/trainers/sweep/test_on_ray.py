"""A sweep on Ray: what is asked of it, with a stand-in; the true one where it is installed."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_diffusion.errors import InputError
from tests.trainers.conftest import assert_same_tensors
from trainers.jobs import RunDir, last_event
from trainers.layering import build_spec
from trainers.run import run
from trainers.stopping import StopSignal
from trainers.sweep import on_ray
from trainers.sweep.members import Member
from trainers.sweep.run import sweep

QUICK: dict[str, Any] = {
    "model": {"precision": "fp32", "device": "cpu", "threads": 1},
    "schedule": {"steps": 1, "batch_size": 1},
    "preview": {"enabled": False},
}


class FakeRay:
    """Runs a task when it is waited for. Tasks can be lost, or cancelled."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self, *, gpus: int = 0, lost: tuple[str, ...] = ()) -> None:
        self.gpus, self.lost = gpus, lost
        self.options: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self._cancelled: set[object] = set()

    def is_initialized(self) -> bool:
        return False

    def init(self, **_: object) -> None:
        self.calls.append("init")

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": self.gpus} if self.gpus else {}

    def remote(self, function):
        def task(folder: str, started_in: str, options: list[str]):
            return function, folder, (folder, started_in, tuple(options))

        def with_options(**wanted: Any):
            self.options.append(wanted)
            return SimpleNamespace(remote=task)

        return SimpleNamespace(options=with_options)

    def wait(self, tasks, timeout):
        return tasks[:1], tasks[1:]

    def cancel(self, task) -> None:
        self._cancelled.add(task)

    def get(self, task) -> int:
        function, folder, given = task
        if task in self._cancelled or Path(folder).name in self.lost:
            raise self.exceptions.RayError("the worker died\nof something")
        return function(*given)


def made(world, folder: Path, **own: dict[str, Any]) -> list[Member]:
    return [
        Member(name, build_spec([QUICK, world, each]), RunDir(folder / name))
        for name, each in own.items()
    ]


@pytest.fixture
def ran(monkeypatch) -> list[list[str]]:
    """The commands that tasks would start; each ends with what its folder's name says."""
    commands: list[list[str]] = []

    class Process:
        def __init__(self, command, **_: object) -> None:
            commands.append(command)
            self.code = {"good": 0, "stopped": 143}.get(Path(command[4]).name, 2)
            if not self.code:
                Path(command[4], "good.safetensors").write_bytes(b"")

        def wait(self) -> int:
            return self.code

    monkeypatch.setattr(on_ray.subprocess, "Popen", Process)
    return commands


def use(monkeypatch, fake: FakeRay) -> FakeRay:
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_each_run_is_the_single_runs_command_in_its_own_folder(world, tmp_path, monkeypatch, ran):
    fake = use(monkeypatch, FakeRay())
    members = made(world, tmp_path, good={}, bad={}, stopped={})
    ended = sweep(members, tmp_path, StopSignal(), on="ray", resuming=True)
    assert [command[1:] for command in ran] == [
        ["-m", "trainers.dreambooth_lora", "--run", str(member.run_dir.path), "--resume"]
        for member in members
    ]
    assert ended.adapters == {"good": tmp_path / "good" / "good.safetensors"}
    assert ended.outcomes["stopped"].exit_code == 143
    assert "ended with code 2; see" in ended.problems["bad"]
    assert ended.exit_code == 2
    assert fake.calls == ["init", "shutdown"]
    assert [member.run_dir.spec() for member in members] == [member.spec for member in members]


def test_a_run_gets_a_gpu_where_the_cluster_has_any_and_the_run_wants_one(
    world, tmp_path, monkeypatch, ran
):
    fake = use(monkeypatch, FakeRay(gpus=4))
    members = made(world, tmp_path, good={"model": {"device": "auto"}}, bad={})
    sweep(members, tmp_path, StopSignal(), on="ray")
    assert [wanted["num_gpus"] for wanted in fake.options] == [1, 0]


def test_a_lost_task_is_a_problem_and_a_signal_is_passed_on(world, tmp_path, monkeypatch, ran):
    use(monkeypatch, FakeRay(lost=("lost",)))
    ended = sweep(made(world, tmp_path, lost={}, good={}), tmp_path, StopSignal(), on="ray")
    assert ended.problems == {"lost": "Its task was lost (the worker died). Resume the sweep."}
    assert set(ended.adapters) == {"good"}
    stop = StopSignal()
    stop.requested = signal.SIGTERM
    ended = sweep(made(world, tmp_path / "b", one={}, two={}), tmp_path / "b", stop, on="ray")
    assert (ended.exit_code, ended.adapters, len(ran)) == (143, {}, 1)


def test_without_ray_it_is_one_clear_line(world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs Ray.*pip install 'lora-diffusion\[ray\]'"):
        sweep(made(world, tmp_path, a={}), tmp_path, StopSignal(), on="ray")


def test_a_cluster_that_is_not_there_is_told(world, tmp_path, monkeypatch):
    fake = use(monkeypatch, FakeRay())
    monkeypatch.setattr(fake, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("no\nway")))
    with pytest.raises(InputError, match=r"can't be used \(no\)"):
        sweep(made(world, tmp_path, a={}), tmp_path, StopSignal(), on="ray")


@pytest.mark.soak
def test_on_a_true_local_cluster_the_files_are_those_of_single_runs(world, tmp_path):
    pytest.importorskip("ray")
    members = made(world, tmp_path, small={"adapter": {"rank": 2}}, wide={"adapter": {"rank": 5}})
    ended = sweep(members, tmp_path, StopSignal(), on="ray")
    assert (ended.exit_code, ended.problems) == (0, {})
    for member in members:
        assert last_event(member.run_dir).kind == "finished"
        own = RunDir(tmp_path / "alone" / member.name)
        alone = run(member.spec, own, StopSignal()).adapter
        assert_same_tensors(alone, ended.adapters[member.name])
