"""Checkpoints: one safetensors file holds all that a run needs to go on, bit for bit.

Tensors: `adapter/KEY/down|up|magnitude` (fp32; magnitude for DoRA) and
`optim/KEY/down|up|magnitude/exp_avg|exp_avg_sq|step`. The header's metadata holds the step, the
spec, the dataset's fingerprint and the gradient scaler.
Randomness needs no state: every draw is a function of (seed, place).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import replace_atomically
from lora_diffusion.injection import AdapterHandle

FORMAT = "1"
_ADAPTER, _OPTIM = "adapter", "optim"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One file's content.

    Attributes:
        step: optimizer steps done.
        spec: the run's settings as JSON-ready dict.
        dataset: fingerprint of pictures and captions.
        scaler: the gradient scaler's state (fp16 on a GPU), else empty.
        tensors: by name.
    """

    step: int
    spec: dict[str, Any]
    dataset: str
    scaler: dict[str, Any]
    tensors: dict[str, Tensor]


def file_name(step: int) -> str:
    return f"step-{step:08d}.safetensors"


def save(
    folder: Path,
    *,
    step: int,
    spec: dict[str, Any],
    dataset: str,
    scaler: dict[str, Any],
    handle: AdapterHandle,
    optimizer: torch.optim.Optimizer,
    keep: int,
) -> Path:
    """Write a checkpoint, read it back, and only then let go of all but the newest `keep`.

    Raises:
        OSError: the disk is full or read-only; older checkpoints are untouched.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in _named(handle):
        tensors[f"{_ADAPTER}/{name}"] = _stored(parameter)
        for field, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{_OPTIM}/{name}/{field}"] = _stored(value)
    metadata = {
        "format": FORMAT,
        "step": str(step),
        "spec": json.dumps(spec),
        "dataset": dataset,
        "scaler": json.dumps(scaler),
    }
    path = folder / file_name(step)
    replace_atomically(path, lambda beside: save_file(tensors, beside, metadata=metadata))
    if read(path).step == step:
        for old in files(folder)[:-keep]:
            old.unlink(missing_ok=True)
    return path


def files(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read; damaged ones are passed over."""
    for path in reversed(files(folder)):
        try:
            return read(path)
        except InputError:
            continue
    return None


def read(path: Path) -> Checkpoint:
    """One checkpoint.

    Raises:
        InputError: damaged, or not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise InputError(f"{printable(path)}: is not a checkpoint of this version.")
        return Checkpoint(
            step=int(metadata["step"]),
            spec=json.loads(metadata["spec"]),
            dataset=metadata["dataset"],
            scaler=json.loads(metadata["scaler"]),
            tensors=tensors,
        )
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(
            f"{printable(path)}: is damaged ({printable(error, 80)}). Delete it to resume from "
            "an older checkpoint."
        ) from None


def restore(
    checkpoint: Checkpoint,
    handle: AdapterHandle,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> None:
    """Put a checkpoint's state into a fresh adapter and optimizer of the same settings.

    Raises:
        InputError: the checkpoint belongs to another adapter.
    """
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in _named(handle):
        stored = checkpoint.tensors.get(f"{_ADAPTER}/{name}")
        if stored is None or stored.shape != parameter.shape:
            raise InputError(
                f"The checkpoint at step {checkpoint.step} has no {name} of shape "
                f"{list(parameter.shape)}: it belongs to a run with other adapter settings."
            )
        with torch.no_grad():
            parameter.copy_(stored)
        prefix = f"{_OPTIM}/{name}/"
        state = {
            key.removeprefix(prefix): value
            for key, value in checkpoint.tensors.items()
            if key.startswith(prefix)
        }
        if parameter in trained and state:
            optimizer.state[parameter] = {
                field: value.to(parameter.device) for field, value in state.items()
            }
    if scaler is not None and checkpoint.scaler:
        scaler.load_state_dict(checkpoint.scaler)


def _named(handle: AdapterHandle) -> Iterator[tuple[str, nn.Parameter]]:
    for key, adapter in handle.adapters():
        for name, parameter in adapter.named_parameters():
            yield f"{key}/{name}", parameter


def _stored(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()
