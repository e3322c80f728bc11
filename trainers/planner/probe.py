"""What a run takes, measured: two steps at its largest bucket, in a process of their own. No torch.

The process is `trainers.planner.trial`. Whatever happens to it, memory that runs out included,
whoever asks goes on.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lora_diffusion.errors import InputError, printable
from trainers.planner.estimate import estimate, size
from trainers.spec import JobSpec

_LOOK_SECONDS = 0.2
_COMMAND = (sys.executable, "-m", "trainers.planner.trial")


class Cancelled(Exception):
    """The measuring was cut short, as asked."""


@dataclass(frozen=True)
class Probe:
    """What two steps took.

    Attributes:
        device: `cpu`, `cuda`, …
        batch_size, height_px, width_px: of the step.
        weights: bytes of the base's models while training.
        adapter: bytes of its numbers, their average and the optimizer's state.
        activations: most bytes that a step has besides.
        estimated: what `planner.estimate` says of training, bytes of tensors.
        step_seconds: of the second step.
    """

    device: str
    batch_size: int
    height_px: int
    width_px: int
    weights: int
    adapter: int
    activations: int
    estimated: int
    step_seconds: float

    @property
    def peak(self) -> int:
        """Most bytes of tensors at once while training."""
        return self.weights + self.adapter + self.activations

    def lines(self) -> list[str]:
        """For people."""
        off = self.estimated / self.peak - 1
        return [
            f"measured      {size(self.peak)} of tensors while training; the estimate of "
            f"{size(self.estimated)} is {abs(off):.0%} {'above' if off > 0 else 'below'}",
            f"  weights {size(self.weights)}, adapter {size(self.adapter)}, a step's activations "
            f"{size(self.activations)}",
            f"  {self.step_seconds:.2f} s a step of {self.batch_size} x {self.width_px} x "
            f"{self.height_px} px on {self.device}",
        ]


def probe(
    spec: JobSpec,
    *,
    on_progress: Callable[[str], None] = lambda _text: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Probe:
    """Do two steps of `spec` at its largest bucket, and measure them.

    Args:
        on_progress: called with what is being done.
        is_cancelled: asked several times a second.

    Raises:
        InputError: the run itself could not be started, or memory does not suffice for it.
        Cancelled: `is_cancelled` said so.
    """
    with _trial() as process:
        assert process.stdin is not None and process.stdout is not None
        replies = _replies(process.stdout)
        try:
            process.stdin.write(spec.model_dump_json())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended, as the replies tell
        while True:
            if is_cancelled():
                raise Cancelled
            try:
                reply = replies.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if reply is None:
                raise InputError(_ended(process.wait()))
            if "error" in reply:
                raise InputError(str(reply["error"]))
            if "measured" in reply:
                return _probe(spec, reply["measured"])
            on_progress(str(reply["progress"]))


@contextmanager
def _trial() -> Iterator[subprocess.Popen[str]]:
    """The process; when left, it is gone."""
    process = subprocess.Popen(
        _COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _replies(stdout: IO[str]) -> queue.SimpleQueue[dict[str, Any] | None]:
    """What the process says, line by line, and None at its end."""
    replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for line in stdout:
                replies.put(json.loads(line))
        except ValueError:
            pass  # a line cut off, or the pipe closed under the reader
        replies.put(None)

    threading.Thread(target=read, daemon=True).start()
    return replies


def _probe(spec: JobSpec, measured: dict[str, Any]) -> Probe:
    told = estimate(spec, gpu=measured["device"] != "cpu")
    return Probe(**measured, estimated=told.phases["train"])


def _ended(code: int) -> str:
    how = f"signal {-code}" if code < 0 else f"exit code {printable(code)}"
    return (
        f"The process that measures was ended by the system ({how}), most likely for lack of "
        "memory. --plan says what would lower it."
    )
