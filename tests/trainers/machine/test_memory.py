"""Memory that runs out: at any operation of a run, in steps that are too large, in previews.

`make soak` tries 120 operations all over a run.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from lora_diffusion.errors import InputError
from lora_diffusion.families.sd import StableDiffusion
from lora_diffusion.keys import UNET
from tests.conftest import make_parts
from tests.trainers.test_bit_exact import EVERYTHING
from trainers import checkpoint, loop, preview
from trainers.events import Event, read_events
from trainers.jobs import RunDir
from trainers.layering import build_spec
from trainers.machine.devices import Placement
from trainers.machine.unet_options import hold_in_fp8, keep_in_main_memory
from trainers.run import run
from trainers.spec import JobSpec
from trainers.stopping import StopSignal
from trainers.validation.validator import Validator

STEPS, BATCH = 3, 3
CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


class Shortage(TorchDispatchMode):
    """Counts operations, and from number `at` on finds no memory once.

    Not while the safetensors library makes a tensor: it would tell of another error.
    """

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.at = at
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.at and self.count >= self.at and not _reads_a_file():
            odd, self.at = self.at % 2, None
            if odd:
                raise MemoryError
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return func(*args, **(kwargs or {}))


def _reads_a_file() -> bool:
    callers = (sys._getframe(depth).f_code for depth in range(2, 10))
    return any("safetensors" in c.co_filename or "get_tensor" in c.co_names for c in callers)


def make_spec(world: dict[str, Any], **changes: Any) -> JobSpec:
    rest = {
        "optim": {"lr_unet": 1e-2, "lr_text": 1e-2, "ema_decay": 0.9},
        "schedule": {"steps": STEPS, "batch_size": BATCH},
        "save": {"checkpoint_every_steps": 1},
        "preview": {"enabled": True, "sampling_steps": 1, "prompts": ["sks", "a square"]},
    }
    return build_spec([EVERYTHING, world, rest, changes])


def train(spec: JobSpec, folder: Path, *, resuming: bool = False) -> dict[str, torch.Tensor]:
    outcome = run(spec, RunDir(folder), StopSignal(), resuming=resuming)
    assert outcome.adapter is not None
    return load_file(outcome.adapter)


def events(folder: Path, kind: str) -> list[Event]:
    return [e for e in read_events(RunDir(folder).events_file)[0] if e.kind == kind]


def assert_alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    first, second = (torch.cat([t.flatten() for t in each.values()]) for each in (one, other))
    assert (first - second).norm() < 1e-3 * first.norm()


@pytest.fixture(scope="module")
def plain(world, tmp_path_factory) -> tuple[dict[str, torch.Tensor], int]:
    """The adapter of a run with enough memory, and how many operations it took."""
    folder = tmp_path_factory.mktemp("plain")
    train(make_spec(world), folder / "warm")  # what is done once in a process is not counted
    with Shortage() as counted:
        adapter = train(make_spec(world), folder / "run")
    return adapter, counted.count


def check_positions(world, plain, folder: Path, count: int) -> int:
    """Run out of memory once at each of `count` operations; how many runs went on by themselves."""
    adapter, operations = plain
    spec, went_on = make_spec(world), 0
    for number in range(count):
        at = 1 + operations * (2 * number + 1) // (2 * count)
        where = folder / str(at)
        try:
            with Shortage(at):
                trained = train(spec, where)
            went_on += 1
        except InputError as error:
            assert "emory ran out" in str(error), at
            assert "\n" not in str(error)
            assert events(where, "failed")[-1].body["defect"] is False
            told = events(where, "checkpoint")
            newest = checkpoint.newest(RunDir(where).checkpoints)
            assert (newest.step if newest else 0) >= (told[-1].body["step"] if told else 0)
            trained = train(spec, where, resuming=True)
        assert_alike(adapter, trained)
        assert not list(where.rglob("*.tmp*"))
        shutil.rmtree(where)
    return went_on


def test_a_run_outlives_a_lack_of_memory_or_goes_on_from_its_checkpoint(world, plain, tmp_path):
    assert check_positions(world, plain, tmp_path, 6) >= 1


@pytest.mark.soak
def test_a_lack_of_memory_at_120_operations(world, plain, tmp_path):
    went_on = check_positions(world, plain, tmp_path, 120)
    print(f"{went_on} of 120 went on by themselves")
    assert went_on >= 30


def limit_rows(monkeypatch: pytest.MonkeyPatch, most: int, from_micro: int = 0) -> list[int]:
    """Let the UNet find no memory for more than `most` pictures in training; what it was given."""
    real, seen = StableDiffusion.predict, []

    def predict(self, noisy, timesteps, conditioning):
        if torch.is_grad_enabled():
            seen.append(len(noisy))
            clock = next(m.clock for m in self.unet.modules() if hasattr(m, "clock"))
            if clock.step >= from_micro and len(noisy) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, noisy, timesteps, conditioning)

    monkeypatch.setattr(StableDiffusion, "predict", predict)
    return seen


def test_a_step_that_is_too_large_is_split_and_learns_the_same(world, plain, tmp_path, monkeypatch):
    seen = limit_rows(monkeypatch, 1)
    assert_alike(plain[0], train(make_spec(world), tmp_path / "run"))
    assert seen == [3, 3, 1, 2] + [1] * 3 * STEPS
    told = [e.body for e in events(tmp_path / "run", "memory")]
    assert [(b["recompute"], b["parts"]) for b in told] == [(True, 1), (True, 2), (True, 3)]
    notes = [e.body["text"] for e in events(tmp_path / "run", "note")]
    assert "Memory ran out in step 1. From here on activations are recomputed." in notes
    assert len(events(tmp_path / "run", "step")) == STEPS


def test_resuming_starts_with_the_savings_and_ends_in_the_same_bytes(world, tmp_path, monkeypatch):
    limit_rows(monkeypatch, 2, from_micro=1)
    whole = train(make_spec(world), tmp_path / "whole")
    assert [e.body["parts"] for e in events(tmp_path / "whole", "memory")] == [1, 2]
    for step in (1, 2):  # before the shortage, and after it
        folder = tmp_path / f"from-{step}"
        name = f"checkpoints/step-{step:08d}.safetensors"
        (folder / "checkpoints").mkdir(parents=True)
        shutil.copy(tmp_path / "whole" / name, folder / name)
        resumed = train(make_spec(world), folder, resuming=True)
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
        assert len(events(folder, "memory")) == (2 if step == 1 else 0)


def test_at_the_end_of_the_ladder_the_adapter_is_kept(world, tmp_path, monkeypatch):
    with monkeypatch.context() as short:
        limit_rows(short, 0, from_micro=2)
        with pytest.raises(
            InputError, match=r"step 3, although .*3 parts.*--resume --fork"
        ) as told:
            train(make_spec(world), tmp_path / "run")
    assert "\n" not in str(told.value)
    saved = checkpoint.newest(RunDir(tmp_path / "run").checkpoints)
    assert (saved.step, saved.memory["parts"]) == (2, 3)
    monkeypatch.undo()
    smaller = make_spec(world, model={"gradient_checkpointing": True})
    train(smaller, tmp_path / "run", resuming=True)


def test_an_update_without_memory_leaves_the_last_checkpoint(world, plain, tmp_path, monkeypatch):
    real = loop.Trainer._update

    def update(self, step, finite):
        if step == 2:
            self.handle.parameters()[0].data.fill_(7)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, step, finite)

    with monkeypatch.context() as short:
        short.setattr(loop.Trainer, "_update", update)
        with pytest.raises(InputError, match=r"Memory ran out.*--resume"):
            train(make_spec(world), tmp_path / "run")
    assert checkpoint.newest(RunDir(tmp_path / "run").checkpoints).step == 2
    assert_alike(plain[0], train(make_spec(world), tmp_path / "run", resuming=True))


@pytest.mark.parametrize(
    ("most_px", "notes", "files"),
    [(2 * 64 * 64 - 1, 1, 2), (64 * 64 - 1, 2, 2), (0, 3, 0)],
)
def test_previews_without_memory_end_no_run(world, tmp_path, monkeypatch, most_px, notes, files):
    real = preview.draw

    def draw(base, pictures, *, at_once, **rest):
        if min(at_once, len(pictures)) * pictures[0].width_px * pictures[0].height_px > most_px:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(base, pictures, at_once=at_once, **rest)

    monkeypatch.setattr(preview, "draw", draw)
    train(make_spec(world, schedule={"steps": 1}), tmp_path)
    told = [e.body["text"] for e in events(tmp_path, "note") if "reviews" in e.body["text"]]
    assert len(told) == notes + (not files), told  # left out before and after the step
    assert len(list((tmp_path / "previews" / "step-00000001").glob("*.png"))) == files


@pytest.mark.parametrize(("method", "told"), [("look_at_base", "The base"), ("measure", "Step 2")])
def test_measurements_without_memory_end_no_run(world, tmp_path, monkeypatch, method, told):
    real = getattr(Validator, method)

    def short(self, *step):
        if step in ((), (2,)):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, *step)

    monkeypatch.setattr(Validator, method, short)
    measured = {"every_steps": 1, "hold_out": 1, "timesteps": 2}
    train(make_spec(world, preview={"enabled": False}, validation=measured), tmp_path)
    notes = [e.body["text"] for e in events(tmp_path, "note")]
    assert f"{told} was not measured: memory ran out, one picture at a time." in notes
    assert len(events(tmp_path, "step")) == STEPS
    steps = [e.body["step"] for e in events(tmp_path, "validation")]
    assert steps == ([] if method == "look_at_base" else [0, 1, 3])


def test_pictures_are_encoded_one_by_one_where_memory_runs_out(world, plain, tmp_path, monkeypatch):
    real, given = StableDiffusion.encode_pictures, []

    def encode(self, pixels):
        given.append(len(pixels))
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, pixels)

    monkeypatch.setattr(StableDiffusion, "encode_pictures", encode)
    assert_alike(plain[0], train(make_spec(world), tmp_path))
    assert given == [3, 1, 1, 1]


def test_weights_in_main_memory_are_fetched_and_compute_the_same():
    unet = make_parts()[UNET]
    inputs = (torch.ones(1, 4, 8, 8), torch.tensor([5]), torch.ones(1, 7, 32))
    before = unet(*inputs).sample
    for _ in range(2):  # runs that share a base may both come to it
        keep_in_main_memory(unet, CPU)
        assert torch.equal(unet(*inputs).sample, before)
    elsewhere = make_parts()[UNET]
    keep_in_main_memory(elsewhere, torch.device("meta"))
    query = elsewhere.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    assert query.weight.device.type == "meta"
    assert query.parametrizations.weight.original.device == CPU
    waiting = sum(p.numel() for n, p in elsewhere.named_parameters() if "original" in n)
    assert waiting > 0.9 * sum(p.numel() for p in elsewhere.parameters())


def test_an_8_bit_base_can_wait_in_main_memory():
    unet = make_parts()[UNET].to(torch.bfloat16)
    hold_in_fp8(unet, Placement(CPU, "bf16"))
    inputs = (torch.ones(1, 4, 8, 8), torch.tensor([5]), torch.ones(1, 7, 32))
    inputs = tuple(x.bfloat16() if x.is_floating_point() else x for x in inputs)
    before = unet(*inputs).sample
    keep_in_main_memory(unet, CPU)
    assert torch.equal(unet(*inputs).sample, before)
