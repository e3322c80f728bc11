"""Open a Stable Diffusion 1.x model from one `.safetensors` checkpoint (LDM / A1111 layout).

The file holds UNet, VAE and text encoder under prefixes of their own. Its architecture is known
(`configs/sd15`) except for widths, which are read from the shapes of its tensors. diffusers'
converters rename the UNet and the VAE; every parameter is then accounted for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families import tokenizer, weights
from lora_diffusion.families.detect import (
    EMA_PREFIX,
    SD1_TEXT_PREFIX,
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    read_json,
)
from lora_diffusion.families.layout import AGAIN, SCHEDULER_CONFIG
from lora_diffusion.families.request import Request
from lora_diffusion.families.sd import StableDiffusion
from lora_diffusion.formats.header import Header

CONFIGS = Path(__file__).resolve().parent / "configs" / "sd15"
CLIP_HEAD = 64  # width of one attention head in every CLIP text encoder
_LEVELS = range(4)
_UNET_LEVEL = 3  # input blocks from one resolution to the next: two layers and the step down

# What a VAE's own training leaves in some files.
_TRAINING_LEFTOVERS = (VAE_PREFIX + "loss.", VAE_PREFIX + "model_ema.")

Shapes = Mapping[str, tuple[int, ...]]
Convert = Callable[[dict[str, Tensor], dict[str, Any]], dict[str, Tensor]]


def load(request: Request, header: Header) -> StableDiffusion:
    """The model in the file `request.path`, whose checked header is `header`.

    Raises:
        InputError: a part is missing, broken or of another architecture.
    """
    shapes = header.shapes()
    _require_parts(request.where, shapes)
    prediction = request.chosen_prediction()
    if any(name.startswith(EMA_PREFIX) for name in shapes):
        request.on_progress("The file also holds averaged (EMA) weights, which are left out")
    request.on_progress(f"Loading the UNet ({weights.gigabytes([request.path])} file)")
    unet = _unet(request, header)
    request.on_progress("Loading the VAE and the text encoder")
    vae = _vae(request, header)
    text = _text_encoder(request, header)
    words = tokenizer.find(request.tokenizer, request.on_progress)
    tokenizer.check_fits(words, text, request.where)
    scheduler = read_json(CONFIGS / SCHEDULER_CONFIG) | {
        "prediction_type": prediction,
        "rescale_betas_zero_snr": request.found.zero_snr,
    }
    return StableDiffusion(
        arch=request.found.arch,
        name=request.name,
        unet=weights.settle(unet, request.device),
        vae=weights.settle(vae, request.device),
        text_encoder=weights.settle(text, request.device),
        tokenizer=words,
        scheduler_config=scheduler,
        prediction=prediction,
        clip_skip=request.clip_skip,
    )


def unet_config(shapes: Shapes, where: str) -> dict[str, Any]:
    """SD1.5's UNet configuration with the widths of this file.

    Raises:
        InputError: a tensor that tells a width is missing.
    """
    blocks = [f"input_blocks.{1 + _UNET_LEVEL * i}.0.out_layers.3.weight" for i in _LEVELS]
    context = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    return _shipped("unet") | {
        "block_out_channels": [_size(shapes, UNET_PREFIX + name, 0, where) for name in blocks],
        "cross_attention_dim": _size(shapes, UNET_PREFIX + context, 1, where),
    }


def vae_config(shapes: Shapes, where: str) -> dict[str, Any]:
    """SD1.5's VAE configuration with the widths of this file; errors as in `unet_config`."""
    blocks = [f"encoder.down.{i}.block.0.conv1.weight" for i in _LEVELS]
    return _shipped("vae") | {
        "block_out_channels": [_size(shapes, VAE_PREFIX + name, 0, where) for name in blocks],
    }


def text_config(shapes: Shapes, where: str) -> dict[str, Any]:
    """CLIP-L's configuration with the widths and depth of this file; errors as in `unet_config`."""
    # Some early files lack the `text_model` level.
    inner = SD1_TEXT_PREFIX + "text_model."
    prefix = inner if any(name.startswith(inner) for name in shapes) else SD1_TEXT_PREFIX
    tokens = prefix + "embeddings.token_embedding.weight"
    layers = {
        name.removeprefix(prefix + "encoder.layers.").split(".", 1)[0]
        for name in shapes
        if name.startswith(prefix + "encoder.layers.")
    }
    vocabulary, width = (_size(shapes, tokens, axis, where) for axis in (0, 1))
    return _shipped("text_encoder") | {
        "vocab_size": vocabulary,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
        "hidden_size": width,
        "projection_dim": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // CLIP_HEAD),
        "intermediate_size": _size(shapes, prefix + "encoder.layers.0.mlp.fc1.weight", 0, where),
    }


def _require_parts(where: str, shapes: Shapes) -> None:
    for prefix, what in ((VAE_PREFIX, "VAE"), (TEXT_PREFIX, "text encoder")):
        if not any(name.startswith(prefix) for name in shapes):
            raise InputError(
                f"{where}: has no {what} (no tensor called {prefix}…). Get the full version of the "
                "checkpoint, or the model as a diffusers folder."
            )


def _unet(request: Request, header: Header) -> Any:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    where = f"{request.where}, UNet"
    config = unet_config(header.shapes(), where)
    model = _empty(UNet2DConditionModel, config, where)
    _convert(model, config, convert_ldm_unet_checkpoint, header, UNET_PREFIX, request.dtype, where)
    return model


def _vae(request: Request, header: Header) -> Any:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    where = f"{request.where}, VAE"
    config = vae_config(header.shapes(), where)
    model = _empty(AutoencoderKL, config, where)
    _convert(
        model, config, convert_ldm_vae_checkpoint, header, VAE_PREFIX, request.vae_dtype, where
    )
    return model


def _text_encoder(request: Request, header: Header) -> Any:
    where = f"{request.where}, text encoder"
    config = text_config(header.shapes(), where)
    model, places = weights.make_text_encoder(config, header.tensors, SD1_TEXT_PREFIX, where)
    weights.fill(model, weights.read_tensors(header, places, request.dtype), where)
    weights.check_finite(model, where)
    return model


def _empty(kind: Any, config: dict[str, Any], where: str) -> nn.Module:
    """A model of class `kind` with its parameters on the meta device, ready to be filled."""
    from accelerate import init_empty_weights

    with weights.loading(where), init_empty_weights():
        model: nn.Module = kind.from_config(config)
    return model


def _convert(
    model: nn.Module,
    config: dict[str, Any],
    convert: Convert,
    header: Header,
    prefix: str,
    dtype: torch.dtype,
    where: str,
) -> None:
    """Fill `model` with what `convert` makes of the tensors that start with `prefix`."""
    names = {
        name: name
        for name in header.tensors
        if name.startswith(prefix) and not name.startswith(_TRAINING_LEFTOVERS)
    }
    tensors = weights.read_tensors(header, names, dtype)
    with weights.loading(where):
        converted = convert(tensors, config)
    if len(converted) < len(tensors) and not set(model.state_dict()) - set(converted):
        extra = len(tensors) - len(converted)
        raise InputError(
            f"{where}: has {extra} tensors that no Stable Diffusion 1.x model has, so it is an "
            "extended model. Give the plain one."
        )
    weights.fill(model, converted, where)
    weights.check_finite(model, where)


def _shipped(part: str) -> dict[str, Any]:
    return read_json(CONFIGS / part / "config.json")


def _size(shapes: Shapes, name: str, axis: int, where: str) -> int:
    shape = shapes.get(name, ())
    if len(shape) <= axis:
        raise InputError(f"{where}: lacks {printable(name)}. {AGAIN}")
    return shape[axis]
