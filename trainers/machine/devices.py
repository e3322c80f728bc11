"""Device, precision and memory, through accelerate."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator

from lora_diffusion.errors import InputError
from trainers.machine.team import ALONE, Team
from trainers.spec import ModelSpec

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """Where the base lives and in which number format."""

    device: torch.device
    precision: Precision

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.precision]


def choose(spec: ModelSpec, team: Team = ALONE) -> Placement:
    """Resolve `auto`, and refuse what this machine can't do. Each process has a GPU of its own.

    Raises:
        InputError: no such device, or a precision that it lacks.
    """
    device = _device(_own_gpu(spec.device, team))
    if spec.precision != "auto":
        precision: Precision = spec.precision
    elif device.type == "cuda":
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    else:
        precision = "fp32"
    if precision == "fp16" and device.type != "cuda":
        raise InputError(
            f"model.precision = fp16 needs an NVIDIA or AMD GPU; this run is on {device.type}. "
            "Use bf16 or fp32."
        )
    return Placement(device, precision)


def make_accelerator(placement: Placement) -> Accelerator:
    """An accelerator for this placement, whatever an earlier one in this process was set to."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(placement.device)
    mixed = "no" if placement.precision == "fp32" else placement.precision
    with warnings.catch_warnings():  # of the threads that it then sets by itself
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS", category=UserWarning)
        return Accelerator(mixed_precision=mixed, cpu=placement.device.type == "cpu")


def peak_bytes(device: torch.device) -> int:
    """Most memory used so far: of the GPU, or of the process where there is none; 0 if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _own_gpu(wanted: str, team: Team) -> str:
    """`wanted`, or this process' own GPU where several processes have one each.

    Raises:
        InputError: there are too few.
    """
    if team.size == 1 or wanted not in ("auto", "cuda") or not torch.cuda.is_available():
        return wanted
    if team.local_rank >= torch.cuda.device_count():
        raise InputError(
            f"{torch.cuda.device_count()} GPUs are here for more processes. Start one a GPU "
            "(--num_processes)."
        )
    torch.cuda.set_device(team.local_rank)
    return f"cuda:{team.local_rank}"


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"model.device = {wanted}: can't be used here ({str(error).splitlines()[0]}). "
            "Use auto or cpu."
        ) from None
    return device
