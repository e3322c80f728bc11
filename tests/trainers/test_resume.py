"""Which changed settings keep a run from going on."""

from __future__ import annotations

import pytest

from trainers.layering import build_spec
from trainers.resume import differences


def stored(**changes):
    return build_spec([changes]).model_dump(mode="json")


@pytest.mark.parametrize(
    "changes",
    [
        {"preview": {"every_steps": 7}},
        {"save": {"name": "other", "keep_checkpoints": 9}},
        {"model": {"device": "cpu", "threads": 1}},
    ],
)
def test_what_does_not_change_the_learning_is_let_through(changes):
    assert differences(stored(), stored(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"optim": {"lr_unet": 0.5}}, "optim.lr_unet: 0.0001 -> 0.5"),
        ({"schedule": {"steps": 9}}, "schedule.steps: 1500 -> 9"),
        ({"adapter": {"rank": 3}}, "adapter.rank: 16 -> 3"),
        ({"data": {"trigger": "sks"}}, "data.trigger: None -> sks"),
    ],
)
def test_what_does_is_shown_with_both_values(changes, line):
    assert differences(stored(), stored(**changes)) == [line]


def test_a_setting_younger_than_the_checkpoint_counts_as_its_default():
    old = stored()
    del old["adapter"]["dora_axis"], old["objective"]
    assert differences(old, stored()) == []
    assert differences(old, stored(objective={"noise_offset": 0.1})) == [
        "objective.noise_offset: 0.0 -> 0.1"
    ]
