"""An adapter file made on SD2.x or SDXL draws the same picture in diffusers as in our runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_diffusion import load
from lora_diffusion.families import load_base
from lora_diffusion.families.schedulers import make_sampler
from lora_diffusion.generate import PictureSpec, draw
from lora_diffusion.injection import AdapterConfig, attach, inject
from lora_diffusion.keys import UNET
from tests.conftest import fill
from tests.lora_diffusion.families.other_models import make_sd21, make_sdxl, save_sd21, save_sdxl

pytestmark = pytest.mark.usefixtures("no_network")

PICTURE = PictureSpec(
    "a red circle", seed=7, sampling_steps=3, cfg=4.0, width_px=64, height_px=48, sampler="ddim"
)


def pipeline(folder: Path, arch: str) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    if arch == "sdxl":
        return StableDiffusionXLPipeline.from_pretrained(
            folder, local_files_only=True, add_watermarker=False
        )
    return StableDiffusionPipeline.from_pretrained(
        folder, local_files_only=True, safety_checker=None
    )


@pytest.mark.parametrize(
    ("arch", "targets", "text_targets"),
    [
        ("sd21", "transformer", "attn+ff"),
        ("sdxl", "transformer", "attn+ff"),
        ("sdxl", "attn", "none"),
    ],
)
def test_diffusers_draws_the_same_picture(
    tmp_path: Path, arch: str, targets: str, text_targets: str
) -> None:
    folder = tmp_path / "base"
    if arch == "sdxl":
        save_sdxl(make_sdxl(), folder)
    else:
        save_sd21(make_sd21(), folder)
    base = load_base(folder)
    plain = np.asarray(draw(base, [PICTURE])[0], dtype=int)
    config = AdapterConfig(targets=targets, text_targets=text_targets, rank=4, alpha=2.0)
    handle = inject(base.parts, config)
    assert {key.part for key in handle.layers} == (
        set(base.parts) if text_targets != "none" else {UNET}
    )
    fill(handle, spread=0.1)
    path = tmp_path / "adapter.safetensors"
    handle.save(path, arch=arch, dtype="fp32")
    handle.remove()
    attach(base.parts, load(path, base.shapes()))
    ours = np.asarray(draw(base, [PICTURE])[0], dtype=int)

    stock = pipeline(folder, arch)
    stock.scheduler = make_sampler("ddim", base.scheduler_config, base.prediction)
    stock.set_progress_bar_config(disable=True)
    stock.load_lora_weights(str(path))
    image = stock(
        PICTURE.prompt,
        num_inference_steps=PICTURE.sampling_steps,
        guidance_scale=PICTURE.cfg,
        width=PICTURE.width_px,
        height=PICTURE.height_px,
        generator=torch.Generator("cpu").manual_seed(PICTURE.seed),
    ).images[0]
    assert np.abs(ours - plain).mean() > 1  # the adapter does something that can be seen
    assert np.abs(ours - np.asarray(image, dtype=int)).max() <= 1  # rounding to 8 bit
