"""Puts the trained parts together as a diffusers folder, fp16 safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from demo_making.text import load_text_encoder
from demo_making.unet import load_unet, make_scheduler, scaling_factor_of
from demo_making.vae import load_vae
from demo_making.words import make_tokenizer

MAX_MEGABYTES = 12.0


def export_pipeline(
    folder: Path, joint: Path, decoder: Path, text: Path, latents: Path, unet: Path
) -> float:
    """Write the pipeline to `folder` and return its size in megabytes (10**6 bytes)."""
    vae = load_vae(joint, decoder)
    vae.register_to_config(scaling_factor=scaling_factor_of(latents))
    tokenizer = make_tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=load_text_encoder(text, tokenizer),
        tokenizer=tokenizer,
        unet=load_unet(unet),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    if size > MAX_MEGABYTES:
        raise ValueError(f"{folder} holds {size:.1f} MB, more than {MAX_MEGABYTES} MB")
    return size
