"""Training on a few CPU cores: one single-threaded process per core, gradients averaged.

Small convolutions gain little from threads inside one operation; two processes that each
take half of the batch are faster. Also the pieces that every training loop here shares.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

CHECKPOINT_SECONDS = 60.0
WEIGHT_DECAY = 1e-2
MAX_GRAD_NORM = 1.0


def run_workers(work: Callable[..., None], count: int, *args: object) -> None:
    """Run `work(rank, count, *args)` in `count` processes that can average gradients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if count == 1:
        _enter(0, work, 1, port, args)
    else:
        mp.spawn(_enter, args=(work, count, port, args), nprocs=count)


def _enter(
    rank: int, work: Callable[..., None], count: int, port: int, args: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    if count > 1:
        end_with_parent()
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count
        )
    try:
        work(rank, count, *args)
    finally:
        if count > 1:
            dist.destroy_process_group()


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, however that one ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


def average_gradients(parameters: Iterable[nn.Parameter], count: int) -> None:
    """Replace every gradient by its mean over the `count` processes (one flat all-reduce)."""
    if count == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= count
    for grad, piece in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(piece.view_as(grad))


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """The random source of one step on one process, so that a resumed run repeats itself."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 64 + rank)


def flat_then_linear(step: int, steps: int, flat_share: float) -> float:
    """Learning rate factor: 1 for the first share of the steps, then linearly to 0."""
    flat_steps = flat_share * steps
    if step < flat_steps:
        return min(1.0, (step + 1) / 30)
    return max(0.0, (steps - step) / (steps - flat_steps))


class Trainee:
    """A module in training: AdamW, a moving average of its weights, a checkpoint file.

    The file is written at most once a minute, from process 0 only, and holds all that a
    stopped run needs to go on.
    """

    def __init__(
        self, module: nn.Module, path: Path, rank: int, lr: float, ema_decay: float
    ) -> None:
        self.module, self.path, self.rank = module, path, rank
        self.lr, self.ema_decay = lr, ema_decay
        self.params = list(module.parameters())
        self.optimizer = torch.optim.AdamW(
            self.params, lr=lr, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY
        )
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.steps_done = 0
        self.saved_at = time.monotonic()

    def resume(self) -> int:
        """Take up the saved state, if there is one; returns the steps already done."""
        if self.path.exists():
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
            self.module.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.steps_done = state["average"], state["step"]
        return self.steps_done

    def update(self, loss: Tensor, lr_factor: float, processes: int) -> None:
        """One optimiser step on the gradient's mean over all processes."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * lr_factor
        self.optimizer.zero_grad()
        loss.backward()
        average_gradients(self.params, processes)
        nn.utils.clip_grad_norm_(self.params, MAX_GRAD_NORM)
        self.optimizer.step()
        with torch.no_grad():  # the first steps count more, or the start would linger
            decay = min(self.ema_decay, (self.steps_done + 1) / (self.steps_done + 10))
            for key, value in self.module.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)
        self.steps_done += 1

    def save(self, last: bool = False) -> None:
        """Write the state if a minute has gone by, or if this is the last time."""
        due = last or time.monotonic() - self.saved_at > CHECKPOINT_SECONDS
        if self.rank != 0 or not due:
            return
        state = {
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.steps_done,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)
        self.saved_at = time.monotonic()


class Report:
    """Prints the mean of each named value every so many steps, from process 0 only."""

    def __init__(self, name: str, rank: int, every: int = 50) -> None:
        self.name, self.rank, self.every = name, rank, every
        self.sums: dict[str, float] = {}
        self.count = 0
        self.since = time.monotonic()

    def add(self, step: int, **values: Tensor) -> None:
        """Count one step's values."""
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + float(value.detach())
        self.count += 1
        if (step + 1) % self.every == 0:
            if self.rank == 0:
                means = "  ".join(f"{k} {v / self.count:.4f}" for k, v in self.sums.items())
                pace = (time.monotonic() - self.since) / self.count
                print(f"{self.name} {step + 1}  {means}  {pace:.2f} s/step", flush=True)
            self.sums, self.count, self.since = {}, 0, time.monotonic()
