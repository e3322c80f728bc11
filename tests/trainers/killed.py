"""Runs in processes that a preloaded server forks, to be killed: one costs well under a second.

Imported by that server too, hence a module of its own.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401  loaded before the fork
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

from trainers import checkpoint, dreambooth_lora, export
from trainers import run as _run  # noqa: F401

IN, OUT = b"in", b"out"


def start(work: Callable[..., None], *arguments: object) -> tuple[Any, Connection]:
    """A forked process that does `work(pipe, *arguments)`, and the pipe's reading end."""
    server: Any = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    mine, its = server.Pipe(duplex=False)
    process = server.Process(target=work, args=(its, *arguments), daemon=True)
    process.start()
    its.close()
    return process, mine


def train(pipe: Connection, folder: Path, resume: bool) -> None:
    """One run of a prepared folder; sends IN and OUT around each write of its results."""
    for module, name in ((checkpoint, "save"), (export, "save_adapter")):
        setattr(module, name, _around(getattr(module, name), pipe))
    _main(folder, resume)


def train_told(pipe: Connection, folder: Path, resume: bool) -> None:
    """The same; sends what it says on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            _main(folder, resume)
        finally:
            pipe.send(said.getvalue())


def train_without_room(pipe: Connection, folder: Path, room_bytes: int) -> None:
    """The same, with no file larger than `room_bytes` once there is a checkpoint."""
    real = checkpoint.save

    def save(*args: Any, **kwargs: Any) -> Path:
        path = real(*args, **kwargs)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, room_bytes))
        return path

    checkpoint.save = save
    train_told(pipe, folder, False)


def _main(folder: Path, resume: bool) -> None:
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        code = dreambooth_lora.main(["--run", str(folder), *(["--resume"] if resume else [])])
    raise SystemExit(code)


def _around(real: Callable[..., Any], pipe: Connection) -> Callable[..., Any]:
    def told(*args: Any, **kwargs: Any) -> Any:
        pipe.send_bytes(IN)
        result = real(*args, **kwargs)
        pipe.send_bytes(OUT)
        return result

    return told
