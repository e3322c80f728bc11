"""What a base model is, from its JSON files or its safetensors header alone. No torch.

Nothing is loaded to find out: a folder says it in `model_index.json` and the UNet's configuration,
a checkpoint in the names and shapes of its tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_diffusion.errors import InputError, printable

if TYPE_CHECKING:
    from lora_diffusion.formats.header import Header

# Architecture -> its name for people. The first three are what `DiffusionBase.arch` may say.
TITLES: Mapping[str, str] = {
    "sd15": "Stable Diffusion 1.x",
    "sd21": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "sdxl_refiner": "the Stable Diffusion XL refiner",
    "sd3": "Stable Diffusion 3",
    "flux": "Flux",
    "edit": "an inpainting or editing model",
    "unclip": "an unCLIP model (drawn from pictures)",
    "lcm": "a latent consistency model, whose UNet is told the guidance",
    "edm": "a model with continuous noise levels (EDM), as Playground 2.5 and CosXL",
}
_SHORT_TITLES: Mapping[str, str] = {"sd15": "SD1.x", "sd21": "SD2.x", "sdxl": "SDXL"}
PREDICTIONS: Mapping[str, str] = {"epsilon": "epsilon", "v_prediction": "v-prediction"}

MODEL_INDEX = "model_index.json"
SD_CHANNELS = 4
SD2_CONTEXT = 1024  # width of OpenCLIP-H's token states
_MAX_JSON_BYTES = 4 << 20
_MAX_YAML_BYTES = 1 << 20

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model."
SD1_TEXT_PREFIX = "cond_stage_model.transformer."
EMA_PREFIX = "model_ema."
_CONV_IN = UNET_PREFIX + "input_blocks.0.0.weight"

# OpenCLIP's encoder in SD2.x's checkpoint.
SD2_TEXT_PREFIX = "cond_stage_model.model."
# The two text encoders of SDXL's checkpoint; the refiner has one, in the first place.
SDXL_TEXT_PREFIX = "conditioner.embedders.0.transformer."
SDXL_TEXT_2_PREFIX = "conditioner.embedders.1.model."
_SDXL_TEXT = "conditioner.embedders.1."
_REFINER_TEXT = "conditioner.embedders.0.model."
_CLASS_EMBEDDING = UNET_PREFIX + "label_emb.0.0.weight"
_EDM_MARKERS = ("edm_mean", "edm_vpred.sigma_max")

_V_MARKER = "v_pred"
_ZERO_SNR_MARKER = "ztsnr"
_ZERO_SNR_METADATA = "ss_zero_terminal_snr"
# modelspec's own key, and the one that ComfyUI writes.
_PREDICTION_METADATA = ("modelspec.prediction_type", "modelspec.predict_key")
_YAML = re.compile(r"""^\s*parameterization:\s*["']?(v|eps)["']?\s*(?:#.*)?$""", re.MULTILINE)
# What metadata and sidecars call the two predictions.
_SPELLINGS: Mapping[str, str] = {
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "eps": "epsilon",
    "epsilon": "epsilon",
}
# modelspec.architecture of the two kinds of SD2.x.
_V_ARCHITECTURE, _EPSILON_ARCHITECTURE = "stable-diffusion-v2-768-v", "stable-diffusion-v2-512"

# Files that are something else, told by a part of a tensor name: pattern, what, fix.
_NO_BASE: tuple[tuple[str, str, str], ...] = (
    (
        r"(^lora_(unet|te\d?)_|^lycoris_|\.lora_(down|up|A|B)\b|\.lora\.|\.hada_w|\.lokr_w|\.dora_)",
        "a LoRA (an adapter file)",
        "Give the base model that it was trained on; the LoRA itself goes where adapters are asked "
        "for.",
    ),
    (
        r"(^emb_params$|^clip_[lg]$|^string_to_param)",
        "a textual inversion embedding",
        "Give a base model.",
    ),
    (
        r"(^control_model\.|^controlnet_|^input_hint_block\.)",
        "a ControlNet",
        "Give the base model that it controls.",
    ),
    (r"motion_modules\.", "an AnimateDiff motion module", "Give a base model."),
)


@dataclass(frozen=True)
class Found:
    """What a base says of itself.

    Attributes:
        arch: a key of `TITLES`.
        prediction: `epsilon`, `v_prediction` or whatever else the base says, unchecked; empty
            where it says nothing.
        zero_snr: the noise schedule was made to end without signal.
        title: its name for people, where `TITLES` has none.
    """

    arch: str
    prediction: str = ""
    zero_snr: bool = False
    title: str = ""

    def describe(self) -> str:
        return self.title or TITLES[self.arch]

    def short_title(self) -> str:
        return _SHORT_TITLES.get(self.arch, self.describe())


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        InputError: it is missing, unreadable, too large, or not a JSON object.
    """
    where = printable("/".join(path.parts[-2:]))
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise InputError(f"{where}: is too large for a configuration file. Download it again.")
        document = json.loads(path.read_bytes())
    except OSError as error:
        reason = printable(error.strerror or error)
        raise InputError(
            f"{where}: cannot be read ({reason}). Download the model again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not valid JSON. Download the model again.") from error
    if not isinstance(document, dict):
        raise InputError(f"{where}: is not a JSON object. Download the model again.")
    return document


def folder(path: Path) -> Found:
    """What the model in the diffusers folder `path` is.

    Raises:
        InputError: a file that tells is missing or broken.
    """
    index = read_json(path / MODEL_INDEX)
    found = _folder_arch(path, index)
    scheduler = _read_if_there(path / "scheduler" / "scheduler_config.json") or {}
    kind = str(scheduler.get("_class_name", ""))
    if found.arch in _SHORT_TITLES and kind.startswith(("EDM", "FlowMatch")):
        return Found("edm")
    return replace(
        found,
        prediction=str(scheduler.get("prediction_type", "")),
        zero_snr=bool(scheduler.get("rescale_betas_zero_snr", False)),
    )


def _folder_arch(path: Path, index: Mapping[str, Any]) -> Found:
    pipeline = printable(index.get("_class_name", ""), 60)
    if _class(index, "transformer"):
        arch = _transformer_arch(pipeline)
        return Found(arch, title="" if arch in TITLES else _of_class(pipeline))
    if _class(index, "unet") != "UNet2DConditionModel":
        return Found("other", title=_of_class(pipeline))
    unet = _read_if_there(path / "unet" / "config.json")
    channels = SD_CHANNELS if unet is None else unet.get("in_channels")
    unet = unet or {}  # by its parts; loading names the files that are not there
    if channels != SD_CHANNELS:
        return Found("edit", title=_edit_title(channels))
    if unet.get("time_cond_proj_dim") is not None:
        return Found("lcm")
    encoders = {"text_encoder": "CLIPTextModel"}
    if _class(index, "text_encoder_2"):
        if not _class(index, "text_encoder"):
            return Found("sdxl_refiner")
        arch = "sdxl"
        encoders["text_encoder_2"] = "CLIPTextModelWithProjection"
    elif unet.get("addition_embed_type") == "text_time":
        return Found("other", title=f"{_of_class(pipeline)} without SDXL's second text encoder")
    elif unet.get("class_embed_type") is not None:
        return Found("unclip")
    elif unet.get("use_linear_projection") or unet.get("cross_attention_dim") == SD2_CONTEXT:
        arch = "sd21"
    else:
        arch = "sd15"
    if any(_class(index, part) != kind for part, kind in encoders.items()):
        return Found("other", title=f"{_of_class(pipeline)} with another text encoder")
    return Found(arch)


def checkpoint(header: Header, sidecar: Path | None = None) -> Found:
    """What the single-file checkpoint is whose header this is.

    Args:
        sidecar: where the `.yaml` would lie that travels with some checkpoints; beside the file,
            unless its header is that of a copy.

    Raises:
        InputError: it is no base model; the message says what it is instead.
    """
    shapes = header.shapes()
    _refuse_no_base(header.path, shapes)
    found = _checkpoint_arch(header.path, shapes)
    return replace(
        found,
        prediction="v_prediction"
        if _V_MARKER in shapes
        else _stated(header, sidecar or header.path.with_suffix(".yaml")),
        zero_snr=_ZERO_SNR_MARKER in shapes or header.metadata.get(_ZERO_SNR_METADATA) == "True",
    )


def _stated(header: Header, sidecar: Path) -> str:
    """The prediction that metadata or the `.yaml` beside a checkpoint name; empty without one."""
    for key in _PREDICTION_METADATA:
        if stated := header.metadata.get(key, "").lower():
            return _SPELLINGS.get(stated, stated)
    architecture = header.metadata.get("modelspec.architecture", "")
    if architecture.startswith(_V_ARCHITECTURE):
        return "v_prediction"
    if architecture.startswith(_EPSILON_ARCHITECTURE):
        return "epsilon"
    return _yaml_prediction(sidecar)


def _checkpoint_arch(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Found:
    if any("double_blocks.0." in name for name in shapes):
        return Found("flux")
    if any("joint_blocks.0." in name for name in shapes):
        return Found("sd3")
    conv_in = shapes.get(_CONV_IN, ())
    if len(conv_in) != 4:
        _refuse_part(path, shapes)
    if any(marker in shapes for marker in _EDM_MARKERS):
        return Found("edm")
    if conv_in[1] != SD_CHANNELS:
        return Found("edit", title=_edit_title(conv_in[1]))
    if any(name.startswith(_SDXL_TEXT) for name in shapes):
        return Found("sdxl")
    if any(name.startswith(_REFINER_TEXT) for name in shapes):
        return Found("sdxl_refiner")
    if _CLASS_EMBEDDING in shapes:
        with_sd2_text = any(name.startswith(SD2_TEXT_PREFIX) for name in shapes)
        return Found("unclip" if with_sd2_text else "sdxl")
    # SD1 projects into its transformers by 1x1 convolutions (four dimensions), SD2 by linear
    # layers (two).
    into = next((s for n, s in shapes.items() if n.endswith(".1.proj_in.weight")), ())
    if len(into) == 2 or any(name.startswith(SD2_TEXT_PREFIX) for name in shapes):
        return Found("sd21")
    return Found("sd15")


def _refuse_no_base(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for pattern, what, fix in _NO_BASE:
        if any(re.search(pattern, name) for name in shapes):
            raise InputError(f"{printable(path.name)}: is {what}, not a base model. {fix}")


def _refuse_part(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Say which part of a model the file holds, if it holds one; it has no UNet in LDM layout."""
    whole = "Give the whole checkpoint (UNet, VAE and text encoder in one file)"
    tops = {name.split(".", 1)[0] for name in shapes}
    if "down_blocks" in tops and "time_embedding" in tops:
        what = "the UNet of a diffusers folder"
    elif {"encoder", "decoder"} <= tops or tops == {"first_stage_model"}:
        what = "a VAE alone"
    elif "text_model" in tops or tops == {"cond_stage_model"}:
        what = "a text encoder alone"
    elif {"input_blocks", "output_blocks"} <= tops:
        what = "a UNet alone, without VAE and text encoder"
    elif tops == {"model_ema"}:
        what = "only the averaged (EMA) weights of a training"
    else:
        shown = ", ".join(printable(name, 60) for name in list(shapes)[:3])
        raise InputError(
            f"{printable(path.name)}: is not a Stable Diffusion checkpoint; its first tensors are "
            f"called {shown or 'nothing, it is empty'}. {whole}."
        )
    raise InputError(
        f"{printable(path.name)}: is {what}, not a whole base model. {whole}, or the diffusers "
        "folder."
    )


def _read_if_there(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _class(index: Mapping[str, Any], part: str) -> str:
    """The class that `model_index.json` gives a part, or '' where it has none."""
    entry = index.get(part)
    if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str):
        return entry[1]
    return ""


def _of_class(pipeline: str) -> str:
    return f"of the class {pipeline}" if pipeline else "of no class that is known"


def _transformer_arch(pipeline: str) -> str:
    for start, arch in (("StableDiffusion3", "sd3"), ("Flux", "flux")):
        if pipeline.startswith(start):
            return arch
    return "other"


def _edit_title(channels: object) -> str:
    return f"{TITLES['edit']} (its UNet takes {printable(channels, 20)} channels)"


def _yaml_prediction(sidecar: Path) -> str:
    """What the `.yaml` that travels beside some checkpoints says; empty without one."""
    try:
        if sidecar.stat().st_size > _MAX_YAML_BYTES:
            return ""
        text = sidecar.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = _YAML.search(text)
    return _SPELLINGS[found[1]] if found else ""
