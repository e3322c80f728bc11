"""Asks the warm drawing process (`python -m trainers.worker`) for pictures.

The process holds the model, so the studio never loads torch, and a crash there is a sentence here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable

_CHECKOUT = Path(__file__).resolve().parent.parent
_LEAVE_SECONDS = 5.0

OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class WeightedFile:
    """An adapter file, how strongly it counts, when it was written, and where it acts.

    Attributes:
        weights: as `composition.weights.Weights` writes them.
        mask: a PNG, white where it acts; None is the whole picture.
        prompt: what is drawn there; None is the picture's own prompt.
        window: whether the place is drawn as a picture of its own.
    """

    file: str
    weights: str
    modified_ns: int
    mask: str | None = None
    prompt: str | None = None
    window: bool = False


@dataclass(frozen=True)
class Drawing:
    """One picture to draw. Equal drawings are equal pictures.

    `size_px` None is the base's own size, `width_px` None as much. The four before the latter say
    how the base is read.
    """

    base: str
    adapters: tuple[WeightedFile, ...]
    prompt: str
    negative: str
    seed: int
    sampler: str
    sampling_steps: int
    cfg: float
    size_px: int | None
    tokenizer: str | None = None
    prediction: str = "auto"
    zero_snr: bool | None = None
    clip_skip: int = 1
    width_px: int | None = None


class Drawer:
    """One worker process, started at the first drawing; one drawing at a time."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._folder: Path | None = None
        self._done: dict[Drawing, Path] = {}

    def draw(self, drawing: Drawing, on_progress: OnProgress) -> Path:
        """The picture as a PNG file; a drawing made before is not made again.

        Raises:
            InputError: the worker's one sentence about what went wrong.
        """
        with self._turn:
            known = self._done.get(drawing)
            if known is not None and known.is_file():
                return known
            out = self.scratch() / f"{len(self._done)}.png"
            self._ask({"op": "draw", **asdict(drawing), "out": str(out)}, on_progress)
            self._done[drawing] = out
            return out

    def close(self) -> None:
        """End the worker and remove the pictures."""
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
            try:
                process.wait(_LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _ask(self, request: dict[str, Any], on_progress: OnProgress) -> None:
        process = self._running(on_progress)
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                reply = json.loads(line)
                if reply.get("event") == "progress":
                    on_progress(printable(reply.get("text", ""), 100), float(reply["share"]))
                elif reply.get("event") == "error":
                    raise InputError(printable(reply.get("text", ""), 500))
                else:
                    return
        except (BrokenPipeError, json.JSONDecodeError, KeyError, TypeError):
            pass
        process.kill()
        process.wait()
        self._process = None
        raise InputError(
            f"The drawing process ended: {self._last_words()} Draw again to start it anew."
        )

    def _running(self, on_progress: OnProgress) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        on_progress("Starting the drawing process", 0.0)
        with (self.scratch() / "worker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainers.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                cwd=_CHECKOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUTF8": "1"},
            )
        return self._process

    def scratch(self) -> Path:
        """A folder for files of this launch; `close` removes it."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="lora-studio-"))
        return self._folder

    def _last_words(self) -> str:
        try:
            lines = (self.scratch() / "worker.log").read_text("utf-8", "replace").split("\n")
        except OSError:
            lines = []
        spoken = [printable(line, 200) for line in lines if line.strip()]
        return f"{spoken[-1].rstrip('.')}." if spoken else "it gave no reason."
