"""Checkpoints: one safetensors file holds all that a run needs to go on, bit for bit.

Tensors: `adapter/KEY/down|up|magnitude` (fp32; magnitude for DoRA), their moving average as
`average/KEY/…`, and `optim/KEY/…/exp_avg|…`, whatever the optimizer keeps of each. The header's
metadata holds the step, the spec, the dataset's fingerprint, the gradient scaler, what the
optimizer keeps in plain numbers, and the validation losses so far.
Randomness needs no state: every draw is a function of (seed, place).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats.container import write_any_tensors
from lora_diffusion.injection import AdapterHandle
from trainers.optim.optimizers import group_state, set_group_state

FORMAT = "1"
_ADAPTER, _OPTIM, _AVERAGE = "adapter", "optim", "average"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One file's content.

    Attributes:
        step: optimizer steps done.
        spec: the run's settings as JSON-ready dict.
        dataset: fingerprint of pictures and captions.
        scaler: the gradient scaler's state (fp16 on a GPU), else empty.
        optimizer: its class' name.
        groups: numbers of the optimizer's groups, one dict for each that has any.
        numbers: plain numbers of the optimizer's state, by name.
        memory: the savings of memory in use, see `memory.Savings`.
        tensors: by name.
        validation: (step, loss) of every measurement on held-out pictures.
    """

    step: int
    spec: dict[str, Any]
    dataset: str
    scaler: dict[str, Any]
    optimizer: str
    groups: list[dict[str, float]]
    numbers: dict[str, float]
    memory: dict[str, Any]
    tensors: dict[str, Tensor]
    validation: list[tuple[int, float]] = field(default_factory=list)


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
    average: Mapping[str, Tensor],
    memory: Mapping[str, Any],
    keep: int,
    validation: Sequence[tuple[int, float]] = (),
) -> Path:
    """Write a checkpoint, read it back, and only then let go of all but the newest `keep`.

    Raises:
        OSError: the disk is full or read-only; older checkpoints are untouched.
    """
    tensors = {f"{_AVERAGE}/{name}": _stored(value) for name, value in average.items()}
    numbers: dict[str, float] = {}
    for name, parameter in _named(handle):
        tensors[f"{_ADAPTER}/{name}"] = _stored(parameter)
        for entry, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIM}/{name}/{entry}"] = _stored(value)
            else:
                numbers[f"{_OPTIM}/{name}/{entry}"] = value
    metadata = {
        "format": FORMAT,
        "step": str(step),
        "spec": json.dumps(spec),
        "dataset": dataset,
        "scaler": json.dumps(scaler),
        "optimizer": type(optimizer).__name__,
        "groups": json.dumps(group_state(optimizer)),
        "numbers": json.dumps(numbers),
        "memory": json.dumps(memory),
        "validation": json.dumps(validation),
    }
    path = folder / file_name(step)
    write_any_tensors(path, tensors, metadata)
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
            optimizer=metadata.get("optimizer", "AdamW"),
            groups=json.loads(metadata.get("groups", "[]")),
            numbers=json.loads(metadata.get("numbers", "{}")),
            memory=json.loads(metadata.get("memory", "{}")),
            tensors=tensors,
            validation=[(s, v) for s, v in json.loads(metadata.get("validation", "[]"))],
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

    Where a fork changed the optimizer or how it groups the layers, it starts afresh.

    Raises:
        InputError: the checkpoint belongs to another adapter.
    """
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    state = _optimizer_state(checkpoint) if _same_optimizer(checkpoint, optimizer) else {}
    for name, parameter in _named(handle):
        stored = checkpoint.tensors.get(f"{_ADAPTER}/{name}")
        if stored is None or stored.shape != parameter.shape:
            raise InputError(
                f"The checkpoint at step {checkpoint.step} has no {name} of shape "
                f"{list(parameter.shape)}: it belongs to a run with other adapter settings."
            )
        with torch.no_grad():
            parameter.copy_(stored)
        if parameter in trained and name in state:
            optimizer.state[parameter] = {
                field: value.to(parameter.device) if isinstance(value, Tensor) else value
                for field, value in state[name].items()
            }
    if state:
        set_group_state(optimizer, checkpoint.groups)
    if scaler is not None and checkpoint.scaler:
        scaler.load_state_dict(checkpoint.scaler)


def average(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The adapter's moving average by parameter name; empty where none was kept."""
    return {
        name.removeprefix(f"{_AVERAGE}/"): value
        for name, value in checkpoint.tensors.items()
        if name.startswith(f"{_AVERAGE}/")
    }


def _same_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> bool:
    return checkpoint.optimizer == type(optimizer).__name__ and len(checkpoint.groups) == len(
        group_state(optimizer)
    )


def _optimizer_state(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """What the optimizer kept of each parameter: name -> field -> tensor or number."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in (checkpoint.tensors | checkpoint.numbers).items():
        if key.startswith(f"{_OPTIM}/"):
            name, _, field = key.removeprefix(f"{_OPTIM}/").rpartition("/")
            found.setdefault(name, {})[field] = value
    return found


def _named(handle: AdapterHandle) -> Iterator[tuple[str, nn.Parameter]]:
    for key, name, parameter in handle.named_parameters():
        yield f"{key}/{name}", parameter


def _stored(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()
