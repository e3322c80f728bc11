"""Open a Stable Diffusion 1.x model from a folder in diffusers layout."""

from __future__ import annotations

from typing import Any

import torch

from lora_diffusion.errors import InputError
from lora_diffusion.families import tokenizer, weights
from lora_diffusion.families.detect import read_json
from lora_diffusion.families.layout import SCHEDULER_CONFIG, STEMS, Weights, check_complete
from lora_diffusion.families.request import Request
from lora_diffusion.families.sd import StableDiffusion
from lora_diffusion.formats.header import Header, read_header


def load(request: Request) -> StableDiffusion:
    """The model in the folder `request.path`.

    Raises:
        InputError: files are missing, pickled, broken, or do not fit together.
    """
    path = request.path
    found = check_complete(path, request.where, with_tokenizer=request.tokenizer is None)
    headers = {part: _headers(request.where, part, found[part]) for part in STEMS}
    prediction = request.chosen_prediction()
    unet_files = found["unet"]
    stored = f", {unet_files.variant} files" if unet_files.variant else ""
    request.on_progress(f"Loading the UNet ({weights.gigabytes(unet_files.files)}{stored})")
    unet = _diffusers_model(request, "unet", request.dtype, unet_files)
    request.on_progress("Loading the VAE and the text encoder")
    vae = _diffusers_model(request, "vae", request.vae_dtype, found["vae"])
    text = _text_encoder(request, headers["text_encoder"])
    words = tokenizer.from_folder(request.tokenizer or path / "tokenizer")
    tokenizer.check_fits(words, text, request.where)
    return StableDiffusion(
        arch=request.found.arch,
        name=request.name,
        unet=weights.settle(unet, request.device),
        vae=weights.settle(vae, request.device),
        text_encoder=weights.settle(text, request.device),
        tokenizer=words,
        scheduler_config=read_json(path / SCHEDULER_CONFIG) | {"prediction_type": prediction},
        prediction=prediction,
        clip_skip=request.clip_skip,
    )


def _headers(where: str, part: str, files: Weights) -> list[Header]:
    """The checked headers of one part's files, so that broken ones are found before any loads."""
    try:
        return [read_header(file) for file in files.files]
    except InputError as error:
        raise InputError(f"{where}, {part}: {error}") from error


def _diffusers_model(request: Request, part: str, dtype: torch.dtype, files: Weights) -> Any:
    """The UNet or VAE, by diffusers' own loader, which also knows older names of layers."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kind = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]
    where = f"{request.where}, {part}"
    with weights.loading(where):
        model, info = kind.from_pretrained(
            request.path,
            subfolder=part,
            torch_dtype=dtype,
            variant=files.variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    weights.check_loaded(info, where)
    weights.check_finite(model, where)
    return model


def _text_encoder(request: Request, headers: list[Header]) -> Any:
    """The CLIP text encoder, with or without the `text_model` level in its tensor names."""
    where = f"{request.where}, text_encoder"
    config = read_json(request.path / "text_encoder" / "config.json")
    names = [name for header in headers for name in header.tensors]
    model, places = weights.make_text_encoder(config, names, "", where)
    tensors: dict[str, torch.Tensor] = {}
    for header in headers:
        mine = {name: places[name] for name in header.tensors if name in places}
        tensors.update(weights.read_tensors(header, mine, request.dtype))
    weights.fill(model, tensors, where)
    weights.check_finite(model, where)
    return model
