"""Passes events on to the trackers that the settings name; one that fails is let go of."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from lora_diffusion.errors import InputError, printable
from trainers.events import Event
from trainers.jobs import RunDir
from trainers.spec import JobSpec, TrackingSpec

# Tracker -> the module that has to be there.
_NEEDS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
_GB = 1 << 30
# Event -> (field of its body, name of the figure).
_FIGURES: Mapping[str, Sequence[tuple[str, str]]] = {
    "step": (
        ("loss", "train/loss"),
        ("lr", "train/learning_rate"),
        ("grad_norm", "train/grad_norm"),
        ("seconds", "train/step_seconds"),
    ),
    "validation": (
        ("loss", "validation/loss"),
        ("smooth", "validation/loss_smoothed"),
        ("train_loss", "validation/loss_on_trained"),
        ("class_loss", "validation/loss_on_class"),
        ("moved", "validation/moved"),
        ("leak", "validation/leak"),
    ),
}


@dataclass(frozen=True)
class Picture:
    """A file to show: `label` is the same at every step."""

    label: str
    caption: str
    path: Path


class Tracker(Protocol):
    """What a mirror does with what it is told. Anything that it raises lets go of it."""

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name, after `step` steps."""

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        """Previews or a loss map, after `step` steps."""

    def close(self, outcome: str) -> None:
        """The run has ended: `finished`, `stopped`, `failed`, or empty where none was said."""


Open = Callable[[JobSpec, RunDir, int], Tracker]
"""Opens the tracker of a run that begins after so many steps; its event file has a line by then."""


def check(spec: TrackingSpec) -> None:
    """Raise `InputError` where a tracker's library can't be imported."""
    for name in spec.to:
        try:
            importlib.import_module(_NEEDS[name])
        except Exception as error:  # whatever a broken installation raises
            raise InputError(
                f"tracking.to = {name} can't be used ({_first_line(error)}). Install it with "
                "pip install 'lora-diffusion[tracking]', or leave tracking.to out."
            ) from None


class Mirrors:
    """Follows one run's events. Trackers are opened by the first one.

    Args:
        start: steps that were done before.
        openers: tracker -> what opens it.
        tell: called with a sentence where a tracker fails while the run goes on.
    """

    def __init__(
        self,
        spec: JobSpec,
        run_dir: RunDir,
        start: int,
        openers: Mapping[str, Open],
        tell: Callable[[str], None],
    ) -> None:
        self._spec, self._dir, self._start, self._tell = spec, run_dir, start, tell
        self._waiting: dict[str, Open] = {name: openers[name] for name in spec.tracking.to}
        self._open: dict[str, Tracker] = {}
        self._outcome = ""

    def __call__(self, event: Event) -> None:
        """Take one event; never raises for a tracker's sake."""
        while self._waiting:
            name, opener = self._waiting.popitem()
            self._try(name, partial(self._add, name, opener))
        step = event.body.get("step")
        if event.kind in ("finished", "stopped", "failed"):
            self._outcome = event.kind
        if not isinstance(step, int):
            return
        values, pictures = figures(event), self._pictures(event)
        for name, tracker in list(self._open.items()):
            if values:
                self._try(name, partial(tracker.figures, step, values))
            if pictures:
                self._try(name, partial(tracker.pictures, step, pictures))

    def close(self) -> None:
        """The run is over."""
        for name, tracker in list(self._open.items()):
            self._try(name, partial(tracker.close, self._outcome))

    def _add(self, name: str, opener: Open) -> None:
        self._open[name] = opener(self._spec, self._dir, self._start)

    def _try(self, name: str, work: Callable[[], None]) -> None:
        """Do it; where it fails, say so once and go on without that tracker."""
        try:
            work()
        except Exception as error:  # whatever a tracker, its network or its disk may raise
            self._open.pop(name, None)
            text = f"tracking.to {name}: {_first_line(error)}. events.jsonl has everything."
            if self._outcome:  # which is the last event
                print(text, file=sys.stderr)
            else:
                self._tell(f"{text} The run goes on without it.")

    def _pictures(self, event: Event) -> list[Picture]:
        """The files that an event names, those that are there."""
        if event.kind == "validation" and isinstance(event.body.get("picture"), str):
            named = [("loss map", "loss map", event.body["picture"])]
        elif event.kind == "preview":
            listed = event.body.get("pictures", [])
            named = [
                (f"preview/{number:02d}", str(each["prompt"]), str(each["file"]))
                for number, each in enumerate(listed)
            ]
        else:
            return []
        found = [Picture(label, text, self._dir.path / file) for label, text, file in named]
        return [picture for picture in found if picture.path.is_file()]


def figures(event: Event) -> dict[str, float]:
    """The numbers of an event by name; those that are null or missing are left out."""
    values = {
        name: float(event.body[field])
        for field, name in _FIGURES.get(event.kind, ())
        if isinstance(event.body.get(field), int | float)
    }
    memory = event.body.get("peak_bytes")
    if event.kind == "step" and isinstance(memory, int) and memory > 0:
        values["train/memory_gb"] = memory / _GB
    return values


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return printable(text.splitlines()[0] if text else type(error).__name__)
