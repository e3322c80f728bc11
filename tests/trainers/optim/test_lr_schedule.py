"""The learning rate over a run, against the formulas."""

from __future__ import annotations

import math

import pytest

from trainers.optim.lr_schedule import lr_factor, warmup_steps
from trainers.spec import OptimSpec


def curve(total: int = 100, **settings) -> list[float]:
    spec = OptimSpec(**settings)
    return [lr_factor(spec, step, total) for step in range(total)]


def test_constant_and_warm_up():
    assert curve(lr_schedule="constant", lr_warmup_ratio=0) == [1.0] * 100
    cosine = curve(lr_schedule="cosine", lr_warmup_ratio=0.1)
    assert cosine[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert cosine[10] == 1.0
    assert cosine[55] == pytest.approx(0.5)
    by_steps = curve(lr_schedule="constant", lr_warmup_ratio=0.9, lr_warmup_steps=4)
    assert by_steps[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert warmup_steps(OptimSpec(lr_warmup_steps=0), 100) == 0


FALLS = {
    "cosine": lambda z: 0.5 * (1 + math.cos(math.pi * z)),
    "linear": lambda z: 1 - z,
    "polynomial": lambda z: (1 - z) ** 2,
    "rex": lambda z: (1 - z) / (0.5 + 0.5 * (1 - z)),
}


@pytest.mark.parametrize("schedule", FALLS)
def test_falling_schedules_follow_their_formula_and_end_where_told(schedule):
    whole = curve(lr_schedule=schedule, lr_warmup_ratio=0)
    assert whole == pytest.approx([FALLS[schedule](step / 100) for step in range(100)])
    assert whole == sorted(whole, reverse=True)
    ends = curve(lr_schedule=schedule, lr_warmup_ratio=0, lr_end_ratio=0.2)
    assert ends == pytest.approx([0.2 + 0.8 * value for value in whole])


def test_restarts_are_equal_cosines():
    whole = curve(lr_schedule="cosine_restarts", lr_cycles=4, lr_warmup_ratio=0)
    once = [FALLS["cosine"](step / 25) for step in range(25)]
    assert whole == pytest.approx(once * 4)


def test_the_power_is_a_setting():
    whole = curve(lr_schedule="polynomial", lr_power=3, lr_warmup_ratio=0)
    assert whole[50] == pytest.approx(0.125)
