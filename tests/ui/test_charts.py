"""Smoothing and thinning of the loss curve."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ui.charts import MAX_POINTS, Series


def _series(values: list[float]) -> Series:
    series = Series()
    for step, value in enumerate(values, start=1):
        series.add(step, value)
    return series


def test_a_constant_stays_what_it_is_from_the_first_value() -> None:
    assert _series([0.25] * 40).smooth == pytest.approx([0.25] * 40)


def test_smoothing_follows_a_step_down() -> None:
    smooth = _series([1.0] * 50 + [0.0] * 100).smooth
    assert smooth[49] == pytest.approx(1.0)
    assert all(a > b for a, b in pairwise(smooth[50:]))
    assert smooth[-1] < 0.01


def test_a_short_curve_is_sent_whole() -> None:
    curve = _series([0.5, 0.25, 1 / 3]).curve()
    assert curve["steps"] == [1, 2, 3]
    assert curve["low"] == curve["high"] == [0.5, 0.25, 0.33333]


def test_a_long_curve_keeps_every_peak_and_the_newest_step() -> None:
    values = np.random.default_rng(0).normal(1, 0.1, 300_000).tolist()
    values[123_456], values[200_000] = 9.0, -9.0
    curve = _series(values).curve()
    assert len(curve["steps"]) <= MAX_POINTS
    assert {len(curve[key]) for key in ("low", "high", "smooth")} == {len(curve["steps"])}
    assert max(curve["high"]) == 9.0 and min(curve["low"]) == -9.0
    assert curve["steps"][-1] == 300_000
    assert curve["steps"] == sorted(set(curve["steps"]))


def test_a_resumed_run_overwrites_what_lay_after_its_checkpoint() -> None:
    series = _series([0.5] * 30)
    series.rewind(20)
    assert series.steps[-1] == 20 and len(series.smooth) == 20
    series.add(21, 0.4)
    assert series.steps == list(range(1, 22))
