"""Measures a run as it goes, beside the base's figures; a file and an event each time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from torch import Tensor

from lora_diffusion.families import DiffusionBase
from lora_diffusion.injection import AdapterHandle
from trainers.jobs import RunDir
from trainers.spec import JobSpec
from trainers.stopping import StopRequested, StopSignal
from trainers.teller import Teller
from trainers.validation import drawing, loss_map
from trainers.validation.history import History
from trainers.validation.loss_map import LossMap, Row, mean_loss
from trainers.validation.measure import Encode, Meter, State, moved
from trainers.validation.watched import Watch, Watched

_NOT_MOVED: Mapping[str, float | None] = {"moved": None, "leak": None}


class Validator:
    """Measures the adapter as it stands; the caller shows the weights that are to be measured.

    Attributes:
        history: of the loss on held-out pictures; without any it stays empty.
    """

    def __init__(
        self,
        spec: JobSpec,
        run_dir: RunDir,
        teller: Teller,
        stop: StopSignal,
        base: DiffusionBase,
        handle: AdapterHandle,
        watch: Watch,
        side_px: int,
        history: History,
    ) -> None:
        self.history = history
        self._spec = spec
        self._dir = run_dir
        self._teller = teller
        self._stop = stop
        self._handle = handle
        self._watch = watch
        self._side_px = side_px
        self._meter = Meter(base, spec)
        self._encode: Encode = watch.encode or base.encode_prompts
        self._base_rows: list[Row] = []
        self._states: list[tuple[list[State], list[State]]] = []
        self._base_predictions: tuple[list[Tensor], list[Tensor]] = ([], [])

    def is_due(self, step: int) -> bool:
        """Whether there is to be a measurement after `step` steps, short of the end."""
        return step % self._spec.validation.every_steps == 0

    def look_at_base(self) -> None:
        """Measure the base alone, which everything is compared with.

        Raises:
            StopRequested: the run was asked to stop.
        """
        self._teller.phase("validate", "measuring the base")
        self._handle.enabled = False
        try:
            self._base_rows = [self._base_row(picture) for picture in self._watch.pictures]
            pairs = zip(self._watch.with_trigger, self._watch.without_trigger, strict=True)
            for number, (prompt, plain) in enumerate(pairs):
                self._stop.check()
                self._states.append((self._path(prompt, number), self._path(plain, number)))
            self._base_predictions = self._predictions()
        finally:
            self._handle.enabled = True

    def measure(self, step: int) -> bool:
        """Measure, write the map and the event.

        Returns:
            Whether the smoothed loss on held-out pictures is the lowest so far. Asked to stop, it
            leaves off, and there is no measurement.
        """
        began = time.perf_counter()
        try:
            if step == 0 and self._spec.adapter.start_from is None:
                rows, acts = self._base_rows, _NOT_MOVED  # the adapter's update is 0
            else:
                self._teller.phase("validate", "measuring")
                rows = self._rows()
                acts = self._movement()
        except StopRequested:
            return False
        found = LossMap(step, self._meter.timesteps, tuple(rows))
        held_out = found.of("held_out")
        point = None
        loss = mean_loss(held_out)
        if loss is not None and step > 0:
            point = self.history.add(step, loss)
        files = self._write(found)
        best = self.history.best
        self._teller.events.write(
            "validation",
            step=step,
            **_losses(found),
            smooth=_number(point.smooth if point else None),
            timesteps=list(found.timesteps),
            by_timestep=_by_timestep(held_out or found.of("trained")),
            **acts,
            best_step=best.step if best else None,
            **files,
            seconds=round(time.perf_counter() - began, 3),
        )
        return point is not None and best is point

    def measured(self, step: int) -> bool:
        """Whether the history has this step, or never takes any."""
        watched = any(picture.sort == "held_out" for picture in self._watch.pictures)
        return not watched or step in (point.step for point in self.history.points)

    def why_stop(self) -> str:
        """Why training is to end now; empty where it goes on."""
        return self.history.why_stop(self._spec.validation.patience)

    def _base_row(self, picture: Watched) -> Row:
        self._stop.check()
        own = self._losses(picture, picture.caption)
        row = Row(picture.name, picture.sort, picture.caption, own, own)
        if picture.sort == "class":
            return row
        others = [self._losses(picture, caption) for caption in picture.others]
        return replace(
            row,
            other=tuple(fmean(values) for values in zip(*others, strict=True)),
            empty=self._losses(picture, "") if picture.caption else (),
        )

    def _rows(self) -> list[Row]:
        rows = []
        for picture, base in zip(self._watch.pictures, self._base_rows, strict=True):
            self._stop.check()
            rows.append(replace(base, loss=self._losses(picture, picture.caption)))
        return rows

    def _losses(self, picture: Watched, caption: str) -> tuple[float, ...]:
        return tuple(self._meter.losses(picture, caption, self._encode))

    def _path(self, prompt: str, number: int) -> list[State]:
        return self._meter.path(prompt, number, self._side_px, self._encode)

    def _predictions(self) -> tuple[list[Tensor], list[Tensor]]:
        """With the trigger and without, at the states of each pair of prompts."""
        watch = self._watch
        prompts = zip(self._states, watch.with_trigger, watch.without_trigger, strict=True)
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for states, *texts in prompts:
            self._stop.check()
            for which, path, text in zip(found, states, texts, strict=True):
                which.append(self._meter.predictions(path, text, self._side_px, self._encode))
        return found

    def _movement(self) -> Mapping[str, float | None]:
        """How far predictions move from the base's with the trigger, and the leak: without / with.

        The first as a share of the base's own predictions; both are means over the timesteps.
        """
        if not self._states:
            return _NOT_MOVED
        with_trigger, without = (
            moved(ours, base)
            for ours, base in zip(self._predictions(), self._base_predictions, strict=True)
        )
        shares = [plain / own for plain, own in zip(without, with_trigger, strict=True) if own > 0]
        return {
            "moved": _number(fmean(with_trigger)),
            "leak": _number(fmean(shares) if shares else None),
        }

    def _write(self, found: LossMap) -> dict[str, str]:
        """The map as a file and as a picture; their paths within the run's folder."""
        file = self._dir.validation / f"step-{found.step:08d}.json"
        picture = self._dir.validation / "loss_map.png"
        loss_map.write(found, file)
        drawing.draw(found, picture)
        return {
            "file": file.relative_to(self._dir.path).as_posix(),
            "picture": picture.relative_to(self._dir.path).as_posix(),
        }


def _losses(found: LossMap) -> dict[str, float | None]:
    """The mean loss of each sort of picture, and the base's."""
    named = {"": "held_out", "train_": "trained", "class_": "class"}
    return {
        f"{prefix}{name}loss": _number(mean_loss(found.of(sort), base=bool(prefix)))
        for name, sort in named.items()
        for prefix in ("", "base_")
    }


def _by_timestep(rows: Sequence[Row]) -> list[float | None]:
    return [_number(fmean(column)) for column in zip(*(row.loss for row in rows), strict=True)]


def _number(value: float | None) -> float | None:
    """Six digits; None where it is not finite."""
    finite = value is not None and value - value == 0
    return float(f"{value:.6g}") if finite else None
