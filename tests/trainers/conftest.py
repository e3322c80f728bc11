"""Short runs of the real command on the demo base."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

Run = Callable[..., subprocess.CompletedProcess[str]]
# Small enough to take seconds; everything that a full run does is on.
FAST = [
    "--preset", "demo-character", "--schedule.batch_size", "3", "--adapter.targets", "attn",
    "--adapter.rank", "2", "--data.class_pictures", "2", "--preview.sampling_steps", "2",
    "--model.threads", "1", "--preview.every_steps", "0",
]  # fmt: skip


def environment() -> dict[str, str]:
    """No network, and nothing of the machine's own accelerate settings."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}


def command(*options: object) -> list[str]:
    return [sys.executable, "-m", "trainers.dreambooth_lora", *map(str, options)]


@pytest.fixture
def train() -> Run:
    def run(*options: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*options), capture_output=True, text=True, env=environment(), timeout=300
        )
        assert check is None or done.returncode == check, done.stderr
        return done

    return run


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


def assert_same_tensors(one: Path, other: Path) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different
