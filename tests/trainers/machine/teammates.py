"""Processes of one run, forked from a preloaded server: a team starts in well under a second.

Imported by that server too, hence a module of its own.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lora_diffusion.errors import InputError
from tests.trainers import killed
from trainers import loop

Twist = Callable[[int], None]


@dataclass(frozen=True)
class Ended:
    """How one process ended."""

    code: int
    said: str


def train(
    folder: Path, size: int, *, resume: bool = False, twist: Twist | None = None
) -> list[Ended]:
    """Run a prepared folder in `size` processes; `twist` is called in each with its rank first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        killed.start(_train, folder, resume, twist, rank, size, port) for rank in range(size)
    ]
    ended = []
    for process, pipe in started:
        try:
            said = pipe.recv()
        except EOFError:
            said = ""
        process.join()
        ended.append(Ended(process.exitcode, said))
    return ended


def _train(
    pipe: Connection,
    folder: Path,
    resume: bool,
    twist: Twist | None,
    rank: int,
    size: int,
    port: int,
) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
    )  # fmt: skip
    if twist is not None:
        twist(rank)
    killed.train_told(pipe, folder, resume)


def before_step(step: int, act: Callable[[loop.Trainer], None]) -> None:
    """Let this process do `act` before that step (from 0)."""
    real = loop.Trainer.step

    def twisted(self: loop.Trainer, number: int) -> Any:
        if number == step:
            act(self)
        return real(self, number)

    loop.Trainer.step = twisted  # type: ignore[method-assign]


def interrupted_at_2(rank: int) -> None:
    """The second process alone gets a Ctrl-C."""
    if rank == 1:
        before_step(2, lambda _: os.kill(os.getpid(), signal.SIGINT))


def fails_at_2(rank: int) -> None:
    def fail(_: loop.Trainer) -> None:
        raise InputError("b.png: can't be read. Remove it.")

    if rank == 1:
        before_step(2, fail)


def is_killed_at_2(rank: int) -> None:
    if rank == 1:
        before_step(2, lambda _: os.kill(os.getpid(), signal.SIGKILL))


def fails_at_the_start(rank: int) -> None:
    if rank == 1:
        from trainers import setup

        def open_base(*_: object) -> None:
            raise InputError("This machine has no base. Copy it here.")

        setup.open_base = open_base  # type: ignore[assignment]


def main_fails_to_save(rank: int) -> None:
    if rank == 0:
        from trainers import checkpoint

        def save(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device", "/full")

        checkpoint.save = save  # type: ignore[assignment]


def second_lacks_memory(rank: int) -> None:
    """For two pictures at once, from the second step on."""
    if rank == 1:
        real = loop.Trainer.loss

        def loss(self: loop.Trainer, batch: Any) -> torch.Tensor:
            if len(batch) > 1 and self.handle.clock.step > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(self, batch)

        loop.Trainer.loss = loss  # type: ignore[method-assign]
