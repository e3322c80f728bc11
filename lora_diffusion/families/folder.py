"""Open a Stable Diffusion model (1.x, 2.x, XL) from a folder in diffusers layout."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from lora_diffusion.errors import InputError
from lora_diffusion.families import tokenizer, weights
from lora_diffusion.families.assemble import assemble, text_parts
from lora_diffusion.families.base import DiffusionBase
from lora_diffusion.families.detect import MODEL_INDEX, read_json
from lora_diffusion.families.layout import SCHEDULER_CONFIG, Weights, check_complete, tokenizers
from lora_diffusion.families.outline import VAE
from lora_diffusion.families.request import Request
from lora_diffusion.formats.header import Header, read_header
from lora_diffusion.keys import UNET

# diffusers' own setting of how SDXL's pipelines take an empty negative prompt; true unless said.
_ZERO_EMPTY = "force_zeros_for_empty_prompt"


def load(request: Request) -> DiffusionBase:
    """The model in the folder `request.path`.

    Raises:
        InputError: files are missing, pickled, broken, or do not fit together.
    """
    path, arch = request.path, request.found.arch
    found = check_complete(path, arch, request.where, with_tokenizer=request.tokenizer is None)
    headers = {part: _headers(request.where, part, files) for part, files in found.items()}
    prediction = request.stated_prediction() or "epsilon"  # as diffusers reads one that is silent
    request.on_progress(request.line(prediction))
    unet_files = found[UNET]
    stored = f", {unet_files.variant} files" if unet_files.variant else ""
    request.on_progress(f"Loading the UNet ({weights.gigabytes(unet_files.files)}{stored})")
    models = {UNET: _diffusers_model(request, UNET, request.dtype, unet_files)}
    texts = text_parts(arch)
    request.on_progress(f"Loading the VAE and the text encoder{'s' if len(texts) > 1 else ''}")
    load = {VAE: partial(_diffusers_model, request, VAE, request.vae_dtype, found[VAE])}
    load |= {part: partial(_text_encoder, request, part, headers[part]) for part in texts}
    put_off = {part: load[part] for part in load if part in request.put_off}
    models |= {part: load[part]() for part in load if part not in put_off}
    models |= {part: _empty(request, part) for part in put_off}
    return assemble(
        request,
        models,
        _tokenizers(request),
        read_json(path / SCHEDULER_CONFIG),
        prediction,
        put_off=put_off,
        zero_empty=bool(read_json(path / MODEL_INDEX).get(_ZERO_EMPTY, True)),
    )


def _tokenizers(request: Request) -> Mapping[str, Any]:
    """Text-encoder part -> tokenizer: the folder's own, or what the user gave instead."""
    if request.tokenizer is not None:
        return tokenizer.for_parts(tokenizer.from_folder(request.tokenizer), request.found.arch)
    arch = request.found.arch
    return {
        part: tokenizer.from_folder(request.path / name)
        for part, name in zip(text_parts(arch), tokenizers(arch), strict=True)
    }


def _headers(where: str, part: str, files: Weights) -> list[Header]:
    """The checked headers of one part's files, so that broken ones are found before any loads."""
    try:
        return [read_header(file) for file in files.files]
    except InputError as error:
        raise InputError(f"{where}, {part}: {error}") from error


def _diffusers_model(request: Request, part: str, dtype: torch.dtype, files: Weights) -> Any:
    """The UNet or VAE, by diffusers' own loader, which also knows older names of layers."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kind = {UNET: UNet2DConditionModel, VAE: AutoencoderKL}[part]
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


def _empty(request: Request, part: str) -> Any:
    """The VAE or a text encoder without its weights."""
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL

    where = f"{request.where}, {part}"
    config = read_json(request.path / part / "config.json")
    if part != VAE:
        return weights.empty_text_encoder(config, where, part)
    with weights.loading(where), init_empty_weights():
        return AutoencoderKL.from_config(config)


def _text_encoder(request: Request, part: str, headers: list[Header]) -> Any:
    """A CLIP text encoder, with or without the `text_model` level in its tensor names."""
    where = f"{request.where}, {part}"
    config = read_json(request.path / part / "config.json")
    names = [name for header in headers for name in header.tensors]
    model, places = weights.make_text_encoder(config, names, "", where, part)
    tensors: dict[str, torch.Tensor] = {}
    for header in headers:
        mine = {name: places[name] for name in header.tensors if name in places}
        tensors.update(weights.read_tensors(header, mine, request.dtype))
    weights.fill(model, tensors, where)
    weights.check_finite(model, where)
    return model
