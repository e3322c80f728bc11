"""An exported file draws the same picture in diffusers as in our own runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lora_diffusion import load
from lora_diffusion.families import load_base
from lora_diffusion.families.schedulers import make_sampler
from lora_diffusion.generate import PictureSpec, draw
from lora_diffusion.injection import AdapterConfig, attach, inject
from tests.conftest import fill

PICTURE = PictureSpec(
    "a red circle on a blue background",
    seed=7,
    sampling_steps=5,
    cfg=4.0,
    width_px=64,
    height_px=64,
)


@pytest.mark.parametrize(("targets", "alpha"), [("attn", 4.0), ("transformer", 2.0), ("all", 2.0)])
def test_diffusers_draws_the_same_picture(demo_base, tmp_path, targets, alpha):
    from diffusers import StableDiffusionPipeline

    base = load_base(demo_base)
    plain = np.asarray(draw(base, [PICTURE])[0], dtype=int)
    handle = inject(
        base.parts, AdapterConfig(targets=targets, text_targets="attn+ff", rank=4, alpha=alpha)
    )
    fill(handle, spread=0.1)
    path = tmp_path / "adapter.safetensors"
    handle.save(path, dtype="fp32")
    handle.remove()

    attach(base.parts, load(path, base.shapes()))
    ours = np.asarray(draw(base, [PICTURE])[0], dtype=int)

    pipeline = StableDiffusionPipeline.from_pretrained(demo_base, local_files_only=True)
    pipeline.scheduler = make_sampler("ddim", base.scheduler_config, base.prediction)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(path))
    theirs = pipeline(
        PICTURE.prompt,
        negative_prompt=PICTURE.negative,
        num_inference_steps=PICTURE.sampling_steps,
        guidance_scale=PICTURE.cfg,
        width=PICTURE.width_px,
        height=PICTURE.height_px,
        generator=torch.Generator("cpu").manual_seed(PICTURE.seed),
    ).images[0]
    theirs = np.asarray(theirs, dtype=int)

    assert np.abs(ours - plain).mean() > 3  # the adapter does something that can be seen
    assert np.abs(ours - theirs).max() <= 1  # rounding to 8 bit
