"""A sweep trains what its runs would train alone: the same bytes, in little more memory."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from lora_diffusion.errors import InputError
from tests.trainers.conftest import assert_same_tensors
from tests.trainers.peak import PeakBytes
from trainers.dreambooth_lora import main
from trainers.events import read_events
from trainers.jobs import RunDir, last_event
from trainers.layering import build_spec, to_toml
from trainers.loop import Trainer
from trainers.run import run
from trainers.stopping import StopSignal
from trainers.sweep.members import Member
from trainers.sweep.run import sweep

EVERYTHING: dict[str, Any] = {
    "model": {"precision": "fp32", "device": "cpu", "threads": 1},
    "data": {"caption_dropout": 0.3, "trigger": "sks"},
    "adapter": {"rank": 3, "rank_dropout": 0.2, "neuron_dropout": 0.1, "targets": "all"},
    "optim": {"lr_unet": 1e-2, "lr_text": 1e-2},
    "schedule": {"steps": 4, "batch_size": 2, "accumulate": 2},
    "preview": {"sampling_steps": 1, "every_steps": 2},
    "save": {"dtype": "fp32", "checkpoint_every_steps": 2, "every_steps": 2},
}
# rank, rate, seed, kind and target: everything that moves what is wrapped and drawn
OWN: dict[str, dict[str, Any]] = {
    "small": {"adapter": {"rank": 2}},
    "dora": {"adapter": {"kind": "dora", "targets": "attn"}, "optim": {"kind": "schedulefree"}},
    "quick": {"optim": {"lr_unet": 5e-2, "ema_decay": 0.9}, "schedule": {"seed": 7}},
    "frozen-text": {"optim": {"lr_text": 0.0}, "data": {"caption_dropout": 0.0}},
}


pytestmark = pytest.mark.usefixtures("one_thread")


def make_members(world, folder: Path, own: dict[str, dict[str, Any]] = OWN) -> list[Member]:
    return [
        Member(name, build_spec([EVERYTHING, world, each]), RunDir(folder / name))
        for name, each in own.items()
    ]


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory) -> dict[str, RunDir]:
    """Each run by itself."""
    folder = tmp_path_factory.mktemp("alone")
    for member in make_members(world, folder):
        assert run(member.spec, member.run_dir, StopSignal()).exit_code == 0
    return {name: RunDir(folder / name) for name in OWN}


def data_hash(path: Path) -> str:
    """Of the tensors; the header holds times."""
    content = path.read_bytes()
    return hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def assert_same_run(one: RunDir, other: RunDir) -> None:
    """The same files, tensors, pictures and events but for times and places."""
    listed = [
        sorted(p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file())
        for run in (one, other)
    ]
    assert listed[0] == listed[1]
    for name in listed[0]:
        first, second = one.path / name, other.path / name
        if name.endswith(".safetensors"):
            assert_same_tensors(first, second)
        elif name.startswith("previews/"):
            assert first.read_bytes() == second.read_bytes()
    told = [
        [
            (event.kind, event.body.get("step"), event.body.get("loss"), event.body.get("lr"))
            for event in read_events(run.events_file)[0]
            if event.kind not in ("phase", "doctor", "note")
        ]
        for run in (one, other)
    ]
    assert told[0] == told[1]


def test_a_sweep_trains_what_its_runs_train_alone_bit_for_bit(world, alone, tmp_path):
    swept = make_members(world, tmp_path)
    ended = sweep(swept, tmp_path, StopSignal())
    assert (ended.exit_code, ended.problems) == (0, {})
    for member in swept:
        assert_same_run(member.run_dir, alone[member.name])
        assert ended.adapters[member.name] == member.run_dir.adapter_file(member.spec)
        assert member.run_dir.spec() == member.spec
    assert len({data_hash(adapter) for adapter in ended.adapters.values()}) == len(swept)
    told = json.loads((tmp_path / "sweep.json").read_text())["runs"]
    assert [(run["name"], run["adapter"], run["problem"]) for run in told] == [
        (name, f"{name}.safetensors", None) for name in OWN
    ]


class StopAfter(StopSignal):
    """Ctrl-C after so many steps of all runs."""

    def __init__(self, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        count, step = [0], Trainer.step

        def counted(trainer, number):
            count[0] += 1
            if count[0] == steps:
                self.requested = signal.SIGINT
            return step(trainer, number)

        monkeypatch.setattr(Trainer, "step", counted)


@pytest.mark.parametrize("steps", [1, 6])
def test_a_stopped_sweep_goes_on_to_the_same_bytes(world, alone, tmp_path, monkeypatch, steps):
    with monkeypatch.context() as patch:
        ended = sweep(make_members(world, tmp_path), tmp_path, StopAfter(steps, patch))
    assert (ended.exit_code, ended.adapters) == (130, {})
    assert {last_event(RunDir(tmp_path / name)).kind for name in OWN} == {"stopped"}
    again = sweep(make_members(world, tmp_path), tmp_path, StopSignal(), resuming=True)
    assert again.exit_code == 0
    for name, adapter in again.adapters.items():
        assert_same_tensors(adapter, alone[name].path / adapter.name)


def test_runs_that_have_finished_stay_as_they_are(world, tmp_path):
    both = make_members(world, tmp_path, {name: OWN[name] for name in ("small", "quick")})
    assert run(both[0].spec, both[0].run_dir, StopSignal()).exit_code == 0
    stamp = both[0].run_dir.adapter_file(both[0].spec).stat().st_mtime_ns
    ended = sweep(both, tmp_path, StopSignal(), resuming=True)
    assert set(ended.adapters) == {"small", "quick"}
    assert ended.adapters["small"].stat().st_mtime_ns == stamp


def test_a_run_that_fails_does_not_end_the_others(world, alone, tmp_path, monkeypatch):
    swept = make_members(world, tmp_path)
    broken = build_spec([EVERYTHING, world, {"data": {"folder": str(tmp_path / "nothing")}}])
    swept.insert(1, Member("broken", broken, RunDir(tmp_path / "broken")))
    loss = Trainer.loss

    def never_finite(trainer, batch):
        return loss(trainer, batch) * (float("nan") if trainer.spec.schedule.seed == 7 else 1)

    monkeypatch.setattr(Trainer, "loss", never_finite)
    ended = sweep(swept, tmp_path, StopSignal())
    assert ended.exit_code == 2
    assert "nothing" in ended.problems["broken"]
    assert "not a finite number" in ended.problems["quick"]
    assert set(ended.adapters) == {"small", "dora", "frozen-text"}
    for name, adapter in ended.adapters.items():
        assert_same_tensors(adapter, alone[name].path / adapter.name)
    for name in ("broken", "quick"):
        assert last_event(RunDir(tmp_path / name)).kind == "failed"


@pytest.mark.parametrize("of", ["whole", "steps"])
def test_four_runs_take_less_than_half_as_much_again_as_one(world, tmp_path, monkeypatch, of):
    """By the bytes of all tensors that there are at a time, in the whole run or in its steps."""
    shared = {"preview": {"enabled": False}, "schedule": {"steps": 2}}
    ranks = {f"r{rank}": {"adapter": {"rank": rank, "targets": "attn"}} for rank in (2, 4, 6, 8)}
    swept = make_members(world, tmp_path, {name: {**shared, **own} for name, own in ranks.items()})
    largest = swept[-1]
    with PeakBytes() as one, monkeypatch.context() as patch:
        if of == "steps":
            begin_at_the_first_step(one, patch)
        run(largest.spec, RunDir(tmp_path / "alone"), StopSignal())
    with PeakBytes() as four, monkeypatch.context() as patch:
        if of == "steps":
            begin_at_the_first_step(four, patch)
        assert sweep(swept, tmp_path, StopSignal()).exit_code == 0
    assert one.peak > 1_000_000
    assert four.peak <= 1.5 * one.peak, (four.peak, one.peak)
    if of == "steps":
        assert four.peak > one.peak


def begin_at_the_first_step(peak: PeakBytes, patch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def first(trainer: Trainer, number: int):
        peak.begin_anew()
        patch.setattr(Trainer, "step", step)
        return step(trainer, number)

    patch.setattr(Trainer, "step", first)


def test_runs_of_other_bases_or_a_compiled_one_are_refused_before_anything(world, tmp_path):
    for own, message in (
        ({"a": {}, "b": {"model": {"clip_skip": 2}}}, "model.clip_skip differs"),
        ({"a": {"model": {"compile": True}}, "b": {"model": {"compile": True}}}, "compile"),
    ):
        with pytest.raises(InputError, match=message):
            sweep(make_members(world, tmp_path, own), tmp_path, StopSignal())
    assert list(tmp_path.iterdir()) == []


def test_the_command_trains_a_sweep_and_goes_on_with_it(world, tmp_path, capsys):
    config = tmp_path / "run.toml"
    config.write_text(to_toml(build_spec([EVERYTHING, world, {"preview": {"enabled": False}}])))
    folder = tmp_path / "swept"
    options = ["--config", str(config), "--output_dir", str(folder), "--schedule.steps", "1"]
    assert main([*options, "--sweep", "adapter.rank=2,3", "--sweep", "schedule.seed=0,5"]) == 0
    names = [f"rank-{rank}_seed-{seed}" for rank in (2, 3) for seed in (0, 5)]
    said = [f"adapter: {folder / name / name}.safetensors" for name in names]
    assert capsys.readouterr().out.splitlines() == said
    assert {p.name for p in folder.iterdir()} == {*names, "sweep.json"}
    assert main([*options, "--sweep", "adapter.rank=2"]) == 0  # another name: another run
    assert main([*options, "--sweep", "adapter.rank=2"]) == 2
    assert "error: run rank-2:" in capsys.readouterr().err
    assert main(["--output_dir", str(folder), "--resume"]) == 0


def test_a_sweep_is_not_split_among_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with StopSignal() as stop, pytest.raises(InputError, match=r"without accelerate launch"):
        sweep([], tmp_path, stop)
