"""The smoothed validation loss over a run: which step was best, and whether to stop. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

_WEIGHT = 0.5
"""Of the newest measurement in the exponential mean. Noise and timesteps are fixed, so what is left
to be smoothed are the weights' own jumps from step to step."""


@dataclass(frozen=True)
class Point:
    """One measurement: the mean loss after `step` steps, and smoothed with those before it."""

    step: int
    loss: float
    smooth: float


@dataclass
class History:
    """Measurements in order of steps; those that are not finite are left out."""

    points: list[Point] = field(default_factory=list)

    @staticmethod
    def of(pairs: Iterable[tuple[int, float]]) -> History:
        """From (step, loss) pairs, as `pairs` gives them."""
        history = History()
        for step, loss in pairs:
            history.add(int(step), float(loss))
        return history

    def add(self, step: int, loss: float) -> Point | None:
        """Take in one measurement; None where it is not finite.

        It takes the place of measurements at its step and later. smooth is the mean over all so far
        with the weights (1 - w)^(n - i): an exponential mean without start bias, as Adam's (Kingma
        & Ba, arXiv:1412.6980, section 3).
        """
        if not math.isfinite(loss):
            return None
        self.points = [point for point in self.points if point.step < step]
        losses = [*(point.loss for point in self.points), loss]
        weights = [(1 - _WEIGHT) ** (len(losses) - 1 - index) for index in range(len(losses))]
        smooth = sum(w * each for w, each in zip(weights, losses, strict=True)) / sum(weights)
        point = Point(step, loss, smooth)
        self.points.append(point)
        return point

    @property
    def pairs(self) -> list[tuple[int, float]]:
        """(step, loss) of each measurement: what a checkpoint keeps."""
        return [(point.step, point.loss) for point in self.points]

    @property
    def best(self) -> Point | None:
        """The measurement whose smoothed loss is lowest, the earliest of equals."""
        return min(self.points, key=lambda point: point.smooth, default=None)

    @property
    def waited(self) -> int:
        """Measurements since the best."""
        best = self.best
        return 0 if best is None else len(self.points) - 1 - self.points.index(best)

    def why_best(self) -> str:
        """In a sentence why the best one is that."""
        best = self.best
        if best is None:
            return ""
        if len(self.points) == 1:
            return f"Step {best.step}: the first measurement, with a loss of {best.loss:.4g}."
        after = self.points[self.points.index(best) + 1 :]
        text = (
            f"Step {best.step}: the lowest smoothed loss on held-out pictures, {best.smooth:.4g}, "
            f"of {len(self.points)} measurements"
        )
        if not after:
            return f"{text}, and it was still falling."
        return f"{text}; it then rose, up to {max(p.smooth for p in after):.4g}."

    def why_stop(self, patience: int) -> str:
        """In a sentence why training ends here; empty where it goes on."""
        best = self.best
        if best is None or not patience or self.waited < patience:
            return ""
        return (
            f"The smoothed loss on held-out pictures was lowest at step {best.step} "
            f"({best.smooth:.4g}) and has not fallen below that in {self.waited} measurements, "
            f"up to step {self.points[-1].step} ({self.points[-1].smooth:.4g}); "
            f"validation.patience is {patience}."
        )
