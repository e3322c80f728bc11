"""Open a Stable Diffusion model from one `.safetensors` checkpoint (LDM / A1111 / SGM layout).

The file holds UNet, VAE and text encoders under prefixes of their own. diffusers' converters
rename the UNet and the VAE, `open_clip` the encoders of SD2.x and SDXL; every parameter is then
accounted for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families import ldm_configs, measure, open_clip, tokenizer, weights
from lora_diffusion.families.assemble import assemble
from lora_diffusion.families.base import DiffusionBase, Prediction
from lora_diffusion.families.detect import (
    EMA_PREFIX,
    TITLES,
    UNET_PREFIX,
    VAE_PREFIX,
)
from lora_diffusion.families.layout import AGAIN
from lora_diffusion.families.outline import VAE
from lora_diffusion.families.request import Request
from lora_diffusion.formats.header import Header
from lora_diffusion.keys import TEXT_ENCODER_2, UNET

# What a VAE's own training leaves in some files.
_TRAINING_LEFTOVERS = (VAE_PREFIX + "loss.", VAE_PREFIX + "model_ema.")

Shapes = Mapping[str, tuple[int, ...]]
Load = Callable[..., Any]  # a part, or with fill=False that part without its weights
Convert = Callable[[dict[str, Tensor], dict[str, Any]], dict[str, Tensor]]


def load(request: Request, header: Header) -> DiffusionBase:
    """The model in the file `request.path`, whose checked header is `header`.

    Raises:
        InputError: a part is missing, broken or of another architecture.
    """
    shapes, arch = header.shapes(), request.found.arch
    _require_parts(request.where, shapes, arch)
    stated = request.stated_prediction()
    if stated is not None or arch != "sd21":
        request.on_progress(request.line(stated or "epsilon"))
    if any(name.startswith(EMA_PREFIX) for name in shapes):
        request.on_progress("The file also holds averaged (EMA) weights, which are left out")
    request.on_progress(f"Loading the UNet ({weights.gigabytes([request.path])} file)")
    unet = _unet(request, header)
    prediction = stated or (_measured(request, unet) if arch == "sd21" else _assumed(request, unet))
    if arch == "sd21" and prediction == "v_prediction":
        unet.register_to_config(sample_size=ldm_configs.SD2_V_SAMPLE_SIZE)
    texts = ldm_configs.TEXTS[arch]
    request.on_progress(f"Loading the VAE and the text encoder{'s' if len(texts) > 1 else ''}")
    load: dict[str, Load] = {VAE: partial(_vae, request, header)}
    for part, (prefix, is_open_clip) in texts.items():
        load_text = _open_clip if is_open_clip else _clip
        load[part] = partial(load_text, request, header, part, prefix)
    # A legacy file's tensors lie in a copy that is gone when this returns.
    put_off = request.put_off & load.keys() if header.path == request.path else frozenset()
    models = {UNET: unet} | {part: load[part](fill=part not in put_off) for part in load}
    words = tokenizer.find(request.tokenizer, request.on_progress)
    return assemble(
        request,
        models,
        tokenizer.for_parts(words, arch),
        ldm_configs.scheduler_config(arch),
        prediction,
        put_off={part: load[part] for part in put_off},
    )


def _measured(request: Request, unet: nn.Module) -> Prediction:
    prediction = measure.prediction_of(unet)
    request.on_progress(
        f"{request.line(prediction)}: the file does not say what it predicts, so this was "
        "told from the UNet's answer to noise; if it is wrong, set model.prediction"
    )
    return prediction


def _assumed(request: Request, unet: nn.Module) -> Prediction:
    """Epsilon, which nearly all SD1.x and SDXL files that say nothing are; a doubt is told."""
    if measure.prediction_of(unet) != "epsilon":
        request.on_progress(
            "The file does not say what it predicts, which counts as epsilon, but the UNet's "
            "answer to noise is like v-prediction: if that is what the base was trained for, set "
            "model.prediction to v_prediction"
        )
    return "epsilon"


def _require_parts(where: str, shapes: Shapes, arch: str) -> None:
    texts = ldm_configs.TEXTS[arch]
    wanted = [(VAE_PREFIX, "VAE")]
    for part, (prefix, _) in texts.items():
        name = part.replace("_", " ") if len(texts) > 1 else "text encoder"
        wanted.append((prefix, name))
    for prefix, what in wanted:
        if not any(name.startswith(prefix) for name in shapes):
            raise InputError(
                f"{where}: has no {what} (no tensor called {prefix}…). Get the full version of the "
                "checkpoint, or the model as a diffusers folder."
            )


def _unet(request: Request, header: Header) -> Any:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    where = f"{request.where}, UNet"
    config = ldm_configs.unet_config(header.shapes(), request.found.arch, where)
    model = _empty(UNet2DConditionModel, config, where)
    dtype, title = request.dtype, TITLES[request.found.arch]
    _convert(model, config, convert_ldm_unet_checkpoint, header, UNET_PREFIX, dtype, where, title)
    return model


def _vae(request: Request, header: Header, *, fill: bool = True) -> Any:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    where = f"{request.where}, VAE"
    config = ldm_configs.vae_config(header.shapes(), request.found.arch, where)
    model = _empty(AutoencoderKL, config, where)
    if not fill:
        return model
    dtype, title = request.vae_dtype, TITLES[request.found.arch]
    _convert(model, config, convert_ldm_vae_checkpoint, header, VAE_PREFIX, dtype, where, title)
    return model


def _clip(request: Request, header: Header, part: str, prefix: str, *, fill: bool = True) -> Any:
    """OpenAI's encoder, which files keep under the names of transformers."""
    where = f"{request.where}, {part.replace('_', ' ')}"
    config = ldm_configs.clip_config(header.shapes(), prefix, request.found.arch, where)
    model, places = weights.make_text_encoder(config, header.tensors, prefix, where, part)
    if not fill:
        return model
    weights.fill(model, weights.read_tensors(header, places, request.dtype), where)
    weights.check_finite(model, where)
    return model


def _open_clip(
    request: Request, header: Header, part: str, prefix: str, *, fill: bool = True
) -> Any:
    """OpenCLIP's encoder, under OpenCLIP's names."""
    where = f"{request.where}, {part.replace('_', ' ')}"
    arch = request.found.arch
    config = ldm_configs.open_clip_config(header.shapes(), prefix, arch, part, where)
    model = weights.empty_text_encoder(config, where, part)
    if not fill:
        return model
    used = open_clip.used_names(
        header.tensors, prefix, config["num_hidden_layers"], projected=part == TEXT_ENCODER_2
    )
    places = {name: name.removeprefix(prefix) for name in used}
    tensors = weights.read_tensors(header, places, request.dtype)
    weights.fill(model, open_clip.converted(tensors, weights.clip_level(model)), where)
    weights.check_finite(model, where)
    return model


def _empty(kind: Any, config: dict[str, Any], where: str) -> Any:
    """A model of class `kind` with its parameters on the meta device, ready to be filled."""
    from accelerate import init_empty_weights

    with weights.loading(where), init_empty_weights():
        return kind.from_config(config)


def _convert(
    model: nn.Module,
    config: dict[str, Any],
    convert: Convert,
    header: Header,
    prefix: str,
    dtype: torch.dtype,
    where: str,
    title: str,
) -> None:
    """Fill `model` with what `convert` makes of the tensors that start with `prefix`."""
    names = {
        name: name
        for name in header.tensors
        if name.startswith(prefix) and not name.startswith(_TRAINING_LEFTOVERS)
    }
    tensors = weights.read_tensors(header, names, dtype)
    try:
        with weights.loading(where):
            converted = convert(tensors, config)
    except InputError as error:
        if isinstance(error.__cause__, KeyError):  # the converter missed a tensor
            raise InputError(
                f"{where}: lacks {printable(error.__cause__.args[0])}. {AGAIN}"
            ) from error
        raise
    if len(converted) < len(tensors) and not set(model.state_dict()) - set(converted):
        extra = len(tensors) - len(converted)
        raise InputError(
            f"{where}: has {extra} tensors that no {title} model has, so it is an extended model. "
            "Give the plain one."
        )
    weights.fill(model, converted, where)
    weights.check_finite(model, where)
