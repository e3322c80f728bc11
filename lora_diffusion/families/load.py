"""Open a base model: a diffusers folder, a single-file checkpoint, a hub id, or a bundled one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import DiffusionBase, Prediction
from lora_diffusion.families.sd import StableDiffusion

Progress = Callable[[str], None]


def load_base(
    location: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    tokenizer: str | Path | None = None,
    prediction: Prediction | Literal["auto"] = "auto",
    clip_skip: int = 1,
    on_progress: Progress | None = None,
) -> DiffusionBase:
    """Load a base model, frozen and in evaluation mode.

    Args:
        location: folder in diffusers layout, `.safetensors` checkpoint, hub id (`owner/name`) or
            `bundled:NAME`.
        device: where the models go.
        dtype: of the UNet and text encoder; the VAE stays in fp32 on fp16, which overflows in it.
        tokenizer: folder with the CLIP tokenizer, for a single file.
        prediction: overrides what the base says of itself.
        clip_skip: text-encoder layer counted from the last, from 1.
        on_progress: called with a line of text when something slow begins.

    Raises:
        InputError: nothing there, not a model, or of an architecture that is not supported.
    """
    path = bundled.resolve(str(location))
    if path.is_dir():
        return _load_folder(path, str(location), device, dtype, prediction, clip_skip)
    raise InputError(
        f"Base model '{printable(location)}': there is no such folder or file. Give a diffusers "
        "folder, a .safetensors checkpoint, or a hub id such as owner/name."
    )


def _load_folder(
    path: Path,
    name: str,
    device: str | torch.device,
    dtype: torch.dtype,
    prediction: Prediction | Literal["auto"],
    clip_skip: int,
) -> DiffusionBase:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    if not (path / "model_index.json").is_file():
        raise InputError(
            f"{printable(path)}: has no model_index.json, so it is not a diffusers model folder."
        )
    scheduler: dict[str, Any] = json.loads(
        (path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")
    )
    says: Prediction = scheduler.get("prediction_type", "epsilon")
    vae_dtype = torch.float32 if dtype == torch.float16 else dtype
    unet = UNet2DConditionModel.from_pretrained(path, subfolder="unet", torch_dtype=dtype)
    vae = AutoencoderKL.from_pretrained(path, subfolder="vae", torch_dtype=vae_dtype)
    text = CLIPTextModel.from_pretrained(path, subfolder="text_encoder", dtype=dtype)
    return StableDiffusion(
        arch="sd15",
        name=name,
        unet=unet.to(device),
        vae=vae.to(device),
        text_encoder=text.to(device),
        tokenizer=CLIPTokenizer.from_pretrained(path, subfolder="tokenizer"),
        scheduler_config=scheduler,
        prediction=says if prediction == "auto" else prediction,
        clip_skip=clip_skip,
    )
