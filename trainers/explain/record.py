"""What a run's events tell as a whole, with what a resumed run did again left out. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from trainers.events import OUTCOMES, Event


@dataclass(frozen=True)
class Measurement:
    """One `validation` event; what there was none of is None.

    Attributes:
        loss, base_loss: mean loss on held-out pictures, and the base's.
        trained, base_trained: likewise on trained pictures.
        of_class, base_of_class: likewise on class pictures.
        smooth: of `loss`.
        moved, leak: see `trainers.events`.
        file: the loss map, within the run's folder.
    """

    step: int
    loss: float | None
    base_loss: float | None
    trained: float | None
    base_trained: float | None
    of_class: float | None
    base_of_class: float | None
    smooth: float | None
    moved: float | None
    leak: float | None
    file: str

    @property
    def share(self) -> float | None:
        """The loss on held-out pictures as a share of the base's."""
        return _share(self.loss, self.base_loss)

    @property
    def trained_share(self) -> float | None:
        return _share(self.trained, self.base_trained)

    @property
    def class_share(self) -> float | None:
        return _share(self.of_class, self.base_of_class)


@dataclass
class Record:
    """A run so far.

    Attributes:
        losses: step -> its loss; None where it was not finite and the step was left out.
        measurements: in order of steps, the base's at step 0 among them.
        warnings: how many things the look at the pictures warned of.
        best: body of the newest `best` event.
        outcome: the last event, if it is one.
    """

    total_steps: int = 0
    pictures: int = 0
    class_pictures: int = 0
    losses: dict[int, float | None] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    warnings: int = 0
    best: dict[str, Any] | None = None
    outcome: Event | None = None

    @property
    def step(self) -> int:
        """Steps done."""
        return max(self.losses, default=0)

    @property
    def left_out(self) -> int:
        """Steps whose loss was not finite."""
        return sum(loss is None for loss in self.losses.values())

    @property
    def after_base(self) -> list[Measurement]:
        """Measurements of the adapter."""
        return [each for each in self.measurements if each.step > 0]


def record(events: Iterable[Event]) -> Record:
    """Put events together; fields that are missing or of another type count as not there."""
    found = Record()
    for event in events:
        body = event.body
        found.outcome = event if event.kind in OUTCOMES else None
        if event.kind == "started":
            _start(found, body)
        elif event.kind == "doctor" and isinstance(body.get("counts"), dict):
            found.warnings = _whole(body["counts"].get("warning"))
        elif event.kind == "step":
            found.losses[_whole(body.get("step"))] = _number(body.get("loss"))
        elif event.kind == "validation":
            new = _measurement(body)
            found.measurements = [m for m in found.measurements if m.step < new.step] + [new]
        elif event.kind == "best":
            found.best = body
    return found


def _start(found: Record, body: dict[str, Any]) -> None:
    """A run begins or goes on: what lies after that step is done again."""
    step = _whole(body.get("resumed_at"))
    found.total_steps = _whole(body.get("total_steps"))
    found.pictures = _whole(body.get("pictures"))
    found.class_pictures = _whole(body.get("class_pictures"))
    found.losses = {at: loss for at, loss in found.losses.items() if at <= step}
    found.measurements = [m for m in found.measurements if m.step <= step]
    if found.best and _whole(found.best.get("step")) > step:
        found.best = None


def _measurement(body: dict[str, Any]) -> Measurement:
    file = body.get("file")
    return Measurement(
        step=_whole(body.get("step")),
        loss=_number(body.get("loss")),
        base_loss=_number(body.get("base_loss")),
        trained=_number(body.get("train_loss")),
        base_trained=_number(body.get("base_train_loss")),
        of_class=_number(body.get("class_loss")),
        base_of_class=_number(body.get("base_class_loss")),
        smooth=_number(body.get("smooth")),
        moved=_number(body.get("moved")),
        leak=_number(body.get("leak")),
        file=file if isinstance(file, str) else "",
    )


def _share(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _number(value: object) -> float | None:
    finite = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if finite else None  # type: ignore[arg-type]


def _whole(value: object) -> int:
    number = _number(value)
    return 0 if number is None else int(number)
