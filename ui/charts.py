"""The loss curve made small enough to send: smoothing as it grows, bands where it is long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

MAX_POINTS = 1_200
SMOOTHING_STEPS = 25


class Curve(TypedDict):
    """What the page draws. Lists are of equal length, one entry a point."""

    steps: list[int]
    low: list[float]
    high: list[float]
    smooth: list[float]


@dataclass
class Series:
    """One quantity over the steps of a run, smoothed once as values arrive."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    smooth: list[float] = field(default_factory=list)
    _sum: float = 0.0
    _weight: float = 0.0

    def add(self, step: int, value: float) -> None:
        """Append one value. The smoothed one is an exponential mean without start bias."""
        keep = 1.0 - 2.0 / (SMOOTHING_STEPS + 1)
        self._sum = keep * self._sum + (1.0 - keep) * value
        self._weight = keep * self._weight + (1.0 - keep)
        self.steps.append(step)
        self.values.append(value)
        self.smooth.append(self._sum / self._weight)

    def rewind(self, step: int) -> None:
        """Drop what lies after `step`: a resumed run goes over those steps again."""
        kept = [(s, v) for s, v in zip(self.steps, self.values, strict=True) if s <= step]
        self.steps, self.values, self.smooth = [], [], []
        self._sum = self._weight = 0.0
        for kept_step, value in kept:
            self.add(kept_step, value)

    def curve(self, max_points: int = MAX_POINTS) -> Curve:
        """The curve in at most `max_points` points; each then spans a band from min to max."""
        count = len(self.steps)
        if count <= max_points:
            values = _short(self.values)
            return Curve(steps=self.steps[:], low=values, high=values, smooth=_short(self.smooth))
        starts = np.unique(np.linspace(0, count, max_points, endpoint=False).astype(int))
        ends = np.append(starts[1:], count) - 1
        values_array = np.asarray(self.values)
        return Curve(
            steps=np.asarray(self.steps)[ends].tolist(),
            low=_short(np.minimum.reduceat(values_array, starts).tolist()),
            high=_short(np.maximum.reduceat(values_array, starts).tolist()),
            smooth=_short(np.asarray(self.smooth)[ends].tolist()),
        )


def _short(values: list[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
