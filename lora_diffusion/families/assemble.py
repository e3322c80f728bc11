"""Loaded models and tokenizers -> the base of their architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from lora_diffusion.families import tokenizer, weights
from lora_diffusion.families.base import DiffusionBase, Prediction
from lora_diffusion.families.outline import VAE
from lora_diffusion.families.request import Request
from lora_diffusion.families.sd import StableDiffusion
from lora_diffusion.families.sdxl import StableDiffusionXL
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET


def text_parts(arch: str) -> tuple[str, ...]:
    """The text encoders of a model of that architecture."""
    return (TEXT_ENCODER, TEXT_ENCODER_2) if arch == "sdxl" else (TEXT_ENCODER,)


def assemble(
    request: Request,
    models: Mapping[str, Any],
    words: Mapping[str, Any],
    scheduler_config: Mapping[str, Any],
    prediction: Prediction,
    *,
    zero_empty: bool = True,
    put_off: Mapping[str, Callable[[], Any]] | None = None,
) -> DiffusionBase:
    """The base made of `models` (part -> model) and `words` (text-encoder part -> tokenizer).

    Args:
        scheduler_config: as the base says it; what it predicts and whether it ends without signal
            are replaced.
        zero_empty: SDXL alone: an empty prompt is zeros.
        put_off: part -> what loads it, of those that are empty in `models`.

    Raises:
        InputError: a tokenizer does not fit its encoder, the UNet is of another kind, or clip
            skip goes past the encoder.
    """
    for part, own in words.items():
        tokenizer.check_fits(own, models[part], request.where)
    later = put_off or {}
    settled: dict[str, Any] = {
        part: model if part in later else weights.settle(model, request.device)
        for part, model in models.items()
    }
    scheduler = dict(scheduler_config) | {
        "prediction_type": prediction,
        "rescale_betas_zero_snr": request.has_zero_snr,
    }
    base: StableDiffusion | StableDiffusionXL
    if request.found.arch == "sdxl":
        base = StableDiffusionXL(
            arch=request.found.arch,
            name=request.name,
            unet=settled[UNET],
            vae=settled[VAE],
            text_encoder=settled[TEXT_ENCODER],
            text_encoder_2=settled[TEXT_ENCODER_2],
            tokenizer=words[TEXT_ENCODER],
            tokenizer_2=words[TEXT_ENCODER_2],
            scheduler_config=scheduler,
            prediction=prediction,
            clip_skip=request.clip_skip,
            zero_empty=zero_empty,
        )
    else:
        base = StableDiffusion(
            arch=request.found.arch,
            name=request.name,
            unet=settled[UNET],
            vae=settled[VAE],
            text_encoder=settled[TEXT_ENCODER],
            tokenizer=words[TEXT_ENCODER],
            scheduler_config=scheduler,
            prediction=prediction,
            clip_skip=request.clip_skip,
        )
    base.location = request.path
    if VAE in later:
        base.vae_dtype = request.vae_dtype
    base.put_off({part: partial(_load, load, request) for part, load in later.items()})
    return base


def _load(load: Callable[[], Any], request: Request) -> nn.Module:
    return weights.settle(load(), request.device)
