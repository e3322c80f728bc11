"""Training on from any checkpoint gives the same bytes as never having stopped.

On a tiny base, with everything on that could tell: text encoder, dropouts, captions dropped and
shuffled, masks, class pictures, accumulation, moving average, validation. `make soak` tries every
step of 60.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from trainers.jobs import RunDir
from trainers.layering import build_spec
from trainers.run import run
from trainers.spec import JobSpec, OptimizerKind, OptimSpec
from trainers.stopping import StopSignal

EVERYTHING: dict[str, Any] = {
    "model": {"precision": "fp32", "device": "cpu"},
    "data": {
        "trigger": "sks",
        "caption_dropout": 0.3,
        "shuffle_parts": True,
        "part_dropout": 0.2,
        "masked_loss": True,
        "unmasked_weight": 0.1,
    },
    "adapter": {
        "rank": 3,
        "rank_dropout": 0.2,
        "module_dropout": 0.2,
        "neuron_dropout": 0.1,
    },
    "objective": {"min_snr_gamma": 5.0, "noise_offset": 0.1, "multires_levels": 2},
    "preview": {"enabled": False},
    "save": {"name": "mine", "dtype": "fp32", "keep_checkpoints": 1000},
}
METHODS: dict[str, dict[str, Any]] = {
    "adamw": {"lr_unet": 1e-2, "lr_text": 1e-2, "ema_decay": 0.99, "max_norm": 0.3},
    "schedulefree": {"kind": "schedulefree", "lr_unet": 1e-2},
    "prodigy": {"kind": "prodigy", "d_coef": 2.0, "lr_schedule": "cosine_restarts"},
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def full_world(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The world with captions of several parts, masks, class pictures, and validation."""
    root = tmp_path_factory.mktemp("full")
    for folder in ("pictures", "classes"):
        (root / folder).mkdir()
    for number, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (64, 64), colour).save(root / "pictures" / f"{number}.png")
        mask = Image.new("L", (64, 64), 0)
        mask.paste(255, (8 * number, 0, 64, 40))
        mask.save(root / "pictures" / f"{number}.mask.png")
        words = f"sks, {colour}, square, plain, large"
        (root / "pictures" / f"{number}.txt").write_text(words, encoding="utf-8")
        Image.new("RGB", (64, 64), (90 * (number % 2), 60, 40)).save(
            root / "classes" / f"{number}.png"
        )
    return {
        **world,
        "data": {
            **world["data"],
            "folder": str(root / "pictures"),
            "class_folder": str(root / "classes"),
            "class_prompts": ["a square"],
            "class_pictures": 4,
            "class_fraction": 0.25,
        },
        "validation": {"every_steps": 7, "hold_out": 1, "timesteps": 2, "max_pictures": 1},
    }


def settings(world: dict[str, Any], steps: int, optim: dict[str, Any]) -> JobSpec:
    schedule = {"steps": steps, "batch_size": 1, "accumulate": 2}
    rest = {"optim": optim, "schedule": schedule, "save": {"checkpoint_every_steps": 1}}
    return build_spec([EVERYTHING, world, rest])


def train(spec: JobSpec, folder: Path, *, resuming: bool = False) -> str:
    """The adapter's bytes after the header, hashed; the header holds times."""
    outcome = run(spec, RunDir(folder), StopSignal(), resuming=resuming)
    assert outcome.adapter is not None
    content = outcome.adapter.read_bytes()
    header = int.from_bytes(content[:8], "little")
    return hashlib.sha256(content[8 + header :]).hexdigest()


def train_on(spec: JobSpec, whole: Path, step: int, folder: Path) -> str:
    """As if the run in `whole` had been cut short after `step` steps."""
    (folder / "checkpoints").mkdir(parents=True)
    name = f"checkpoints/step-{step:08d}.safetensors"
    shutil.copy(whole / name, folder / name)
    save = spec.save.model_copy(update={"checkpoint_every_steps": 0})  # takes most of the time
    return train(spec.model_copy(update={"save": save}), folder, resuming=True)


def check(world: dict[str, Any], root: Path, optim: dict[str, Any], total: int, ks: range) -> None:
    spec = settings(world, total, optim)
    whole = train(spec, root / "whole")
    for k in ks:
        assert train_on(spec, root / "whole", k, root / f"from-{k}") == whole, f"from step {k}"
        shutil.rmtree(root / f"from-{k}")
    other = settings(world, total, {**optim, "lr_warmup_steps": 5})
    assert train(other, root / "other") != whole  # the hash can tell


@pytest.mark.parametrize("method", METHODS)
def test_resuming_gives_the_same_bytes(full_world, tmp_path, method):
    check(full_world, tmp_path, METHODS[method], 9, range(1, 9, 3))


@pytest.mark.soak
@pytest.mark.parametrize("method", METHODS)
def test_resuming_gives_the_same_bytes_from_every_step(full_world, tmp_path, method):
    check(full_world, tmp_path, METHODS[method], 60, range(1, 60))


SCHEDULES = get_args(OptimSpec.model_fields["lr_schedule"].annotation)


@pytest.mark.parametrize(
    "optim",
    [
        *({"kind": kind} for kind in get_args(OptimizerKind) if kind not in METHODS),
        *({"lr_schedule": schedule} for schedule in SCHEDULES),
    ],
    ids=lambda optim: next(iter(optim.values())),
)
def test_every_optimizer_and_schedule_resumes(world, tmp_path, optim):
    spec = settings(world, 3, optim)
    assert train(spec, tmp_path / "a") == train_on(spec, tmp_path / "a", 2, tmp_path / "b")
