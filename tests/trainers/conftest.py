"""Short runs of the real command on the demo base."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.lora_diffusion.families.other_models import make_sd21, make_sdxl, save_sd21, save_sdxl
from tests.lora_diffusion.families.sd15_models import make_models, save_folder

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


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny bases of the true classes, by the names in the README's table."""
    root = tmp_path_factory.mktemp("bases")
    v_zero = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    sd21, sdxl = make_sd21(), make_sdxl()
    return {
        "SD1.x": save_folder(make_models(), root / "sd15"),
        "SD2.x": save_sd21(sd21, root / "sd21", v_prediction=False),
        "SD2.x v": save_sd21(sd21, root / "sd21v"),
        "SDXL": save_sdxl(sdxl, root / "sdxl"),
        "SDXL, UNet alone": root / "sdxl",
        "SDXL v, zero SNR": save_sdxl(sdxl, root / "sdxlv", **v_zero),
    }


@pytest.fixture(scope="session")
def two_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two pictures without captions, of different sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (colour, size) in enumerate({"red": (96, 64), "green": (64, 80)}.items()):
        Image.new("RGB", size, colour).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings that name a base of the smallest size and three pictures: a step takes 20 ms."""
    root = tmp_path_factory.mktemp("world")
    from diffusers import UNet2DConditionModel

    from tests.lora_diffusion.families.sd15_models import WIDTH, make_models, save_folder

    models = make_models()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models.unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            layers_per_block=1,
            norm_num_groups=4,
        )
    base = save_folder(models, root / "base")
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (64, 64), colour).save(root / f"{number}.png")
        (root / f"{number}.txt").write_text(f"sks, a {colour} square", encoding="utf-8")
    return {
        "model": {"base": str(base)},
        "data": {"folder": str(root), "resolution_px": 64},
    }
