"""Held-out pictures: how many, always the same, and no copy of one is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from trainers.data.scan import Picture
from trainers.spec import DataSpec, ValidationSpec
from trainers.validation.choice import evenly, hold_out, of_folder


def pictures(count: int) -> list[Picture]:
    return [
        Picture(Path(f"{n}.png"), ("a",), name=f"{n}.png", digest=f"{n * 7919 % 101:064d}")
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("settings", "count", "wanted"),
    [
        ({}, 50, 0),
        ({"every_steps": 5}, 9, 0),
        ({"every_steps": 5}, 14, 1),
        ({"every_steps": 5}, 50, 5),
        ({"every_steps": 5, "hold_out": 0}, 50, 0),
        ({"every_steps": 5, "hold_out": 3}, 5, 3),
        ({"every_steps": 5, "folder": "x"}, 50, 0),
    ],
)
def test_how_many_are_held_out(settings, count, wanted):
    trained, held_out = hold_out(ValidationSpec(**settings), pictures(count))
    assert len(held_out) == wanted
    assert sorted(p.name for p in (*trained, *held_out)) == sorted(p.name for p in pictures(count))


def test_the_choice_follows_from_the_bytes_and_copies_stay_together():
    spec = ValidationSpec(every_steps=1, hold_out=4)
    found = pictures(20)
    _, held_out = hold_out(spec, found)
    _, reversed_ = hold_out(spec, found[::-1])
    assert {p.name for p in held_out} == {p.name for p in reversed_}
    copy = Picture(Path("copy.png"), ("b",), name="copy.png", digest=held_out[0].digest)
    trained, again = hold_out(spec, [*found, copy])
    assert copy in again
    assert len(again) == 4
    assert not {p.digest for p in trained} & {p.digest for p in again}


def test_something_has_to_be_left():
    with pytest.raises(InputError, match=r"validation\.hold_out = 5: the dataset has 5 pictures"):
        hold_out(ValidationSpec(every_steps=1, hold_out=5), pictures(5))


def test_a_folder_of_its_own_is_captioned_as_the_dataset(two_pictures, tmp_path):
    data = DataSpec(folder=str(tmp_path), trigger="sks", instance_prompt="a {trigger} dog")
    spec = ValidationSpec(every_steps=1, folder=str(two_pictures))
    assert [p.caption for p in of_folder(spec, data)] == ["a sks dog"] * 2
    with pytest.raises(InputError, match=r"no such folder.*validation\.folder"):
        of_folder(ValidationSpec(every_steps=1, folder=str(tmp_path / "x")), data)


def test_a_few_are_spread_evenly():
    assert [p.name for p in evenly(pictures(10), 4)] == ["0.png", "2.png", "5.png", "7.png"]
    assert evenly(pictures(3), 4) == pictures(3)
