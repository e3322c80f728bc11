"""Open a base model: a diffusers folder, a single-file checkpoint, a hub id, or a bundled one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args

import torch

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from lora_diffusion.families import detect, folder, hub, layout, legacy, single_file
from lora_diffusion.families.base import DiffusionBase, Prediction
from lora_diffusion.families.detect import Found
from lora_diffusion.families.locate import locate
from lora_diffusion.families.request import Progress, Request
from lora_diffusion.formats.header import Header

L = TypeVar("L")


class FolderLoader(Protocol):
    def __call__(self, request: Request) -> DiffusionBase: ...


class FileLoader(Protocol):
    def __call__(self, request: Request, header: Header) -> DiffusionBase: ...


Arch = Literal["sd15", "sd21", "sdxl"]
# Architecture -> what opens it. A new family adds its lines here and a class beside `sd.py`.
_FOLDERS: Mapping[str, FolderLoader] = dict.fromkeys(get_args(Arch), folder.load)
_FILES: Mapping[str, FileLoader] = dict.fromkeys(get_args(Arch), single_file.load)


def load_base(
    location: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    tokenizer: str | Path | None = None,
    arch: Arch | Literal["auto"] = "auto",
    prediction: Prediction | Literal["auto"] = "auto",
    zero_snr: bool | None = None,
    clip_skip: int = 1,
    put_off: Collection[str] = (),
    on_progress: Progress | None = None,
) -> DiffusionBase:
    """Load a base model, frozen and in evaluation mode.

    Args:
        location: folder in diffusers layout, checkpoint (`.safetensors`, or a legacy `.ckpt`, see
            `legacy`), hub id (`owner/name`, or `hub:owner/name` where a folder of that name is in
            the way) or `bundled:NAME`. A local path never asks the network.
        device: where the models go.
        dtype: of the UNet and text encoders; the VAE stays in fp32 on fp16, which overflows in it.
        tokenizer: folder with the CLIP tokenizer, for a single file; on a folder it replaces the
            one inside.
        arch: what the base has to be; auto takes what it is.
        prediction: what the UNet puts out, for a base that does not say; auto reads it from the
            base. Checkpoints of SD2.x that do not say are measured, others count as epsilon, with
            a word of doubt where the measurement disagrees.
        zero_snr: whether the noise schedule ends without signal (Lin et al., arXiv:2305.08891);
            None reads it from the base, whose silence means no.
        clip_skip: text-encoder layer counted from the last, from 1.
        put_off: of `vae` and the text encoders, those to load when they are first used, maybe
            never; legacy files load all at once.
        on_progress: called with a line of text when something slow begins, and with one that
            says what the base is.

    Raises:
        InputError: nothing there, not a model, broken, of an architecture that is not
            supported, or in contradiction to `arch` or `prediction`. The message names the file,
            the cause and the fix.
    """
    report: Progress = on_progress or _say_nothing
    target = _device(device)
    try:
        path, name, where = _fetched(location, dtype, report)

        def request(found: Found) -> Request:
            return Request(
                path=path,
                name=name,
                where=where,
                found=found,
                device=target,
                dtype=dtype,
                tokenizer=None if tokenizer is None else Path(tokenizer).expanduser(),
                prediction=prediction,
                zero_snr=zero_snr,
                clip_skip=clip_skip,
                on_progress=report,
                put_off=frozenset(put_off),
            )

        if path.is_dir():
            found = _recognise_folder(path, where)
            load_folder = _supported(_FOLDERS, where, found, arch)
            return load_folder(request(found))
        with legacy.opened(path, report) as header:
            found = detect.checkpoint(header, path.with_suffix(".yaml"))
            load_file = _supported(_FILES, where, found, arch)
            return load_file(request(found), header)
    except OSError as error:
        reason = printable(error.strerror or error)
        raise InputError(
            f"Base model '{printable(location)}': cannot be read ({reason}). Check the "
            "permissions and the disk."
        ) from error


def _fetched(location: str | Path, dtype: torch.dtype, report: Progress) -> tuple[Path, str, str]:
    """Where the model lies, what metadata call it, and what messages call it."""
    source = locate(str(location))
    if isinstance(source, Path):
        where = printable(source.resolve().name or source)
        return source, _short_name(str(location), source), where
    half = dtype in (torch.float16, torch.bfloat16)
    path = hub.fetch(source, half=half, accept=_accept_folder, on_progress=report)
    return path, source, source


def _device(device: str | torch.device) -> torch.device:
    """`device`, if it is there.

    Raises:
        InputError: there is no such device on this machine.
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = printable(next(iter(str(error).splitlines()), "")).rstrip(".")
        raise InputError(
            f"model.device = {printable(device, 40)}: cannot be used ({reason}). Set it to auto "
            "or cpu."
        ) from error
    return found


def _recognise_folder(path: Path, where: str) -> Found:
    layout.refuse_if_no_model(path, where)
    return detect.folder(path)


def _accept_folder(path: Path) -> None:
    """Refuse a model on the hub before its weights are downloaded."""
    _supported(_FOLDERS, "This model", detect.folder(path))


def _supported(loaders: Mapping[str, L], where: str, found: Found, wanted: str = "auto") -> L:
    """The loader for what was found.

    Raises:
        InputError: there is none, or something else was wanted; says what the model is and what
            can be trained.
    """
    if found.arch in loaders:
        if wanted in ("auto", found.arch):
            return loaders[found.arch]
        raise InputError(
            f"{where}: is {found.describe()} ({found.arch}), and {printable(wanted, 40)} was asked "
            "for. Ask for auto, or choose another base."
        )
    trained = ", ".join(detect.TITLES[arch] for arch in loaders)
    raise InputError(
        f"{where}: is {found.describe()}. This version trains {trained}; choose such a base."
    )


def _short_name(location: str, path: Path) -> str:
    if location.startswith(bundled.PREFIX):
        return location
    return path.resolve().name if path.is_dir() else path.stem


def _say_nothing(line: str) -> None:
    """The progress of a caller who asked for none."""
