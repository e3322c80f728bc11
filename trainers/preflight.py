"""What is wrong with a run that can be told before anything is written, decoded or loaded."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.detect import TITLES
from lora_diffusion.families.locate import locate
from lora_diffusion.families.outline import outline
from trainers.data import scan
from trainers.jobs import RunDir
from trainers.machine import devices
from trainers.machine.unet_options import check_xformers
from trainers.optim import NOTHING_IS_TRAINED
from trainers.optim.optimizers import check as check_optimizer
from trainers.sample_prompts import read_prompts
from trainers.spec import JobSpec, ModelSpec
from trainers.tracking.mirror import check as check_trackers
from trainers.validation.choice import check_folder

_MIN_FREE_MB = 100


def check(spec: JobSpec, run_dir: RunDir, *, begins: bool = True) -> None:
    """Look at all that a start needs, the quickest first.

    Args:
        begins: whether training begins at step 0; a resumed one needs no adapter to start from.

    Raises:
        InputError: the first thing that is wrong.
    """
    _check_output(run_dir.path)
    optim = spec.optim
    if not (optim.lr_unet or optim.lr_text or optim.lr_text_2):
        raise InputError(NOTHING_IS_TRAINED)
    check_trackers(spec.tracking)
    check_optimizer(optim)
    if spec.preview.enabled and spec.preview.prompts_file:
        read_prompts(bundled.resolve(spec.preview.prompts_file))
    scan.outline(spec.data)
    check_folder(spec.validation)
    start = spec.adapter.start_from
    if begins and start and not Path(start).expanduser().exists():
        raise InputError(
            f"adapter.start_from: {printable(start)}: there is no such file. Check the path."
        )
    _check_base(spec.model)
    placement = devices.choose(spec.model)
    if spec.model.attention == "xformers":
        check_xformers(placement.device)


def _check_output(folder: Path) -> None:
    """Whether the run can be written there."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{printable(folder)}: is a file. Choose a folder for --output_dir.")
    above = (folder.absolute(), *folder.absolute().parents)
    there = next(parent for parent in above if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(
            f"{printable(folder)}: nothing can be written there, {printable(there)} is not a "
            "folder that you may write to. Choose another --output_dir."
        )
    free_mb = shutil.disk_usage(there).free // 1_000_000
    if free_mb < _MIN_FREE_MB:
        raise InputError(
            f"{printable(folder)}: the disk has {free_mb} MB free, and a run needs "
            f"{_MIN_FREE_MB} MB at least. Free some space, or choose another --output_dir."
        )


def _check_base(model: ModelSpec) -> None:
    """Whether the base is there and what it has to be, as far as its files' heads tell."""
    if isinstance(locate(model.base), str) or model.arch == "auto":
        return  # on the hub; or whatever it is, it is told once it is opened
    found = outline(model.base, model.arch).arch
    if found != model.arch:
        raise InputError(
            f"model.base: {printable(model.base)} is {TITLES[found]} ({found}), and {model.arch} "
            "was asked for. "
            "Choose another base or preset, or set model.arch to auto."
        )
