"""The settings in an adapter's own metadata: ours whole, kohya's `ss_*` as far as they tell."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats.header import read_header
from lora_diffusion.formats.metadata import facts_from_metadata
from trainers.importing.kohya import translate

_PREFIX = "ss_"
# sd-scripts' names in metadata -> the options that they were set by, where these differ.
_OPTIONS = {
    "sd_model_name": "pretrained_model_name_or_path",
    "batch_size_per_device": "train_batch_size",
    "total_batch_size": "train_batch_size",
    "optimizer": "optimizer_type",
}
_ARGUMENT = re.compile(r"(\w+)=(\([^)]*\)|[^,)]+)")
_TAKEN = frozenset(
    {
        *("network_module", "network_dim", "network_alpha", "network_args", "network_dropout"),
        *("learning_rate", "unet_lr", "text_encoder_lr", "lr_scheduler", "lr_warmup_steps"),
        *("max_train_steps", "gradient_accumulation_steps", "gradient_checkpointing", "seed"),
        *("resolution", "clip_skip", "min_snr_gamma", "noise_offset", "max_grad_norm"),
        *("multires_noise_iterations", "multires_noise_discount", "scale_weight_norms"),
        *("zero_terminal_snr", "debiased_estimation", "ip_noise_gamma", "prior_loss_weight"),
        *("loss_type", "huber_schedule", "huber_c", "mixed_precision", "v2", *_OPTIONS),
    }
)


def settings_of(path: Path) -> tuple[dict[str, Any], list[str]]:
    """(settings, notes) of the run that made the safetensors file at `path`.

    Raises:
        InputError: no adapter file, or its metadata tells no settings.
    """
    metadata = read_header(path).metadata
    facts = facts_from_metadata(metadata)
    if facts is not None and facts.job:
        return _own(facts.job, path), []
    flat = _flat(metadata)
    if not flat.keys() & {"network_dim", "network_module"}:
        raise InputError(
            f"{printable(path.name)}: its metadata does not say how it was trained. Choose an "
            "adapter that keeps its metadata, or a settings file."
        )
    layer, notes = translate(flat)
    return dict(layer), notes


def _own(job: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(job)
    except tomllib.TOMLDecodeError:
        raise InputError(
            f"{printable(path.name)}: the settings in its metadata are damaged."
        ) from None


def _flat(metadata: Mapping[str, str]) -> dict[str, Any]:
    """sd-scripts' options from its metadata, where "None" stands for what was not set."""
    flat: dict[str, Any] = {}
    for key, value in metadata.items():
        name = key.removeprefix(_PREFIX)
        if not key.startswith(_PREFIX) or name not in _TAKEN or value in ("", "None", "null"):
            continue
        flat[_OPTIONS.get(name, name)] = value
    optimizer = str(flat.get("optimizer_type", ""))
    kind, _, rest = optimizer.partition("(")
    flat["optimizer_type"] = kind.rpartition(".")[2] or "AdamW"
    if rest:
        flat["optimizer_args"] = [f"{name}={value}" for name, value in _ARGUMENT.findall(rest)]
    arguments = flat.pop("network_args", None)
    if arguments:
        flat["network_args"] = _arguments(arguments)
    resolution = str(flat.get("resolution", ""))
    if resolution:
        flat["resolution"] = resolution.strip("()").replace(" ", "")
    return flat


def _arguments(text: str) -> list[str]:
    """`network_args`, kept as a JSON object, as the options they were."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [f"{k}={v}" for k, v in found.items()] if isinstance(found, dict) else []
