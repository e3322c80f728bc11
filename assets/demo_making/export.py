"""Puts the trained parts together as a diffusers folder, fp16 safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from .text import load_text_encoder
from .unet import load_unet, make_scheduler, scaling_factor_of
from .vae import load_vae
from .words import make_tokenizer, vocabulary

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
    _write_vocabulary(folder / "tokenizer")
    _restore_clip_names(folder / "text_encoder" / "model.safetensors")
    _load_text_encoder_as_float32(folder / "text_encoder" / "config.json")
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # they are written readable for their owner only
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    if size > MAX_MEGABYTES:
        raise ValueError(f"{folder} holds {size:.1f} MB, more than {MAX_MEGABYTES} MB")
    return size


def _write_vocabulary(folder: Path) -> None:
    """Add the two files that readers other than transformers 5 look for."""
    vocab, merges = vocabulary()
    text = json.dumps(vocab, ensure_ascii=False)
    (folder / "vocab.json").write_text(text + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _restore_clip_names(weights_file: Path) -> None:
    """Name the weights as every published SD1.x text encoder does: `text_model.` in front.

    transformers 5 writes them without, and reads both.
    """
    weights = load_file(weights_file)
    named = {f"text_model.{name}": value for name, value in weights.items()}
    save_file(named, weights_file, metadata={"format": "pt"})


def _load_text_encoder_as_float32(config_file: Path) -> None:
    """Let a pipeline that is loaded without a dtype run in float32 throughout.

    transformers 5 takes the dtype from this file, diffusers takes float32: left alone, the
    text encoder alone would load as float16 and the UNet would refuse its output.
    """
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
