"""The smoothed loss: which step is best, and when to stop."""

from __future__ import annotations

import math

import pytest

from trainers.validation.history import History


def test_smoothing_is_an_exponential_mean_without_start_bias():
    history = History.of([(1, 4.0), (2, 2.0), (3, 1.0)])
    assert [p.smooth for p in history.points] == pytest.approx(
        [4.0, (2 + 0.5 * 4) / 1.5, (1 + 0.5 * 2 + 0.25 * 4) / 1.75]
    )


def test_the_best_is_the_lowest_smoothed_one_and_the_reason_says_so():
    history = History.of([(10, 3.0), (20, 1.0), (30, 1.2), (40, 5.0)])
    assert history.best.step == 30  # 20's single low value is smoothed away
    assert history.waited == 1
    assert history.why_best().startswith("Step 30: the lowest smoothed loss")
    assert "rose, up to" in history.why_best()
    assert "still falling" in History.of([(10, 3.0), (20, 1.0)]).why_best()


def test_patience_counts_measurements_since_the_best():
    history = History.of([(10, 1.0), (20, 2.0)])
    assert history.why_stop(2) == history.why_stop(0) == ""
    history.add(30, 3.0)
    text = history.why_stop(2)
    assert "lowest at step 10 (1)" in text
    assert "2 measurements, up to step 30" in text
    assert History.of([(10, 1.0), (20, 2.0), (30, 0.1)]).why_stop(1) == ""


def test_what_is_not_finite_is_left_out_and_a_step_measured_again_takes_its_place():
    history = History()
    assert history.add(10, math.nan) is None
    assert (history.best, history.waited, history.why_best()) == (None, 0, "")
    for step, loss in [(10, 1.0), (20, 5.0), (20, 2.0)]:
        history.add(step, loss)
    assert history.pairs == [(10, 1.0), (20, 2.0)]
    assert History.of(history.pairs) == history
