"""What is wrong with this machine for training: Python, torch and its GPU build, memory, disk.

torch is imported when it is looked at, not before.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from lora_diffusion.errors import printable

_OLDEST_PYTHON = (3, 11)
_MIN_FREE_DISK_GB = 5
_MIN_MEMORY_GB = 8
_MIN_GPU_GB = 6
_GB = 1e9
# Package -> what it is for, where it may be missing.
_OPTIONAL = {
    "xformers": "model.attention xformers",
    "bitsandbytes": "8-bit optimizers",
}
_REQUIRED = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "PIL")


@dataclass(frozen=True)
class Finding:
    """One fact about the machine.

    Attributes:
        name: what was looked at.
        severity: `error` no training is possible; `warning` something will not work or be slow;
            `ok` nothing to say.
        value: what was found.
        fix: what to do; empty where nothing is to be done.
    """

    name: str
    severity: Literal["error", "warning", "ok"]
    value: str
    fix: str = ""


def examine_machine(folder: Path = Path()) -> list[Finding]:
    """Look at the machine; `folder` is where runs would be written."""
    return [
        _python(),
        *_packages(),
        *_torch(),
        *_optional(),
        _memory(),
        _disk(folder),
    ]


def _python() -> Finding:
    value = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if sys.version_info < _OLDEST_PYTHON:
        return Finding("python", "error", value, "Install Python 3.11 or newer.")
    return Finding("python", "ok", value)


def _packages() -> Iterator[Finding]:
    missing = [name for name in _REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        yield Finding(
            "packages",
            "error",
            f"{', '.join(missing)} missing",
            "Install lora-diffusion again: pip install -c constraints.txt -e .",
        )


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that its build needs
        yield Finding(
            "torch",
            "error",
            f"can't be imported ({printable(error, 120)})",
            "Install the build for this system from pytorch.org.",
        )
        return
    built_for = torch.version.cuda or getattr(torch.version, "hip", None)
    yield Finding("torch", "ok", f"{torch.__version__}, built for {built_for or 'the CPU'}")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            yield _gpu(number)
    elif torch.backends.mps.is_available():
        yield Finding("gpu", "ok", "Apple GPU (mps)")
    elif _has_nvidia():
        yield Finding(
            "gpu",
            "error",
            "an NVIDIA GPU is here and torch can't use it",
            f"Update its driver to one for CUDA {built_for}."
            if built_for
            else "This torch is built for the CPU: install the CUDA build from pytorch.org.",
        )
    else:
        yield Finding(
            "gpu", "warning", "none found", "Training runs on the CPU: fit for the demo only."
        )


def _gpu(number: int) -> Finding:
    import torch

    properties = torch.cuda.get_device_properties(number)
    major, minor = properties.major, properties.minor
    name = f"gpu {number}"
    value = f"{printable(properties.name)}, {properties.total_memory / _GB:.0f} GB"
    known = torch.cuda.get_arch_list()
    if known and not torch.version.hip and not _runs_on(major, minor, known):
        return Finding(
            name,
            "error",
            f"{value}: this torch has no code for it (sm_{major}{minor})",
            "Install a torch build that lists it, from pytorch.org.",
        )
    if properties.total_memory < _MIN_GPU_GB * _GB:
        return Finding(
            name, "warning", value, "Use model.gradient_checkpointing and schedule.batch_size 1."
        )
    return Finding(name, "ok", value)


def _runs_on(major: int, minor: int, known: list[str]) -> bool:
    """Code for the same major version and no later minor one runs; PTX of an older one also."""
    for entry in known:
        kind, _, digits = entry.partition("_")
        digits = digits.rstrip("af")
        if not digits.isdigit():
            continue
        of = (int(digits[:-1]), int(digits[-1]))
        if kind == "sm" and of[0] == major and of[1] <= minor:
            return True
        if kind == "compute" and of <= (major, minor):
            return True
    return False


def _has_nvidia() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def _optional() -> Iterator[Finding]:
    for name, use in _OPTIONAL.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "ok", f"not installed; needed for {use} only")
            continue
        if importlib.util.find_spec(name) is None:
            yield Finding(name, "warning", f"{version}, damaged", f"Install {name} again.")
            continue
        yield Finding(name, "ok", version)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    value = f"{memory.total / _GB:.0f} GB, {memory.available / _GB:.0f} GB free"
    if memory.available < _MIN_MEMORY_GB * _GB:
        return Finding("memory", "warning", value, "Close other programs: SDXL loads about 8 GB.")
    return Finding("memory", "ok", value)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / _GB
    value = f"{free:.0f} GB free in {printable(folder.resolve())}"
    if free < _MIN_FREE_DISK_GB:
        return Finding("disk", "warning", value, "Free some: checkpoints and caches need room.")
    return Finding("disk", "ok", value)
