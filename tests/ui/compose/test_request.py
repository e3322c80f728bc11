"""What the page sends becomes a mix, or one sentence about the field that can't be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_diffusion.errors import InputError
from tests.ui.made_runs import make_run
from ui.compose.cards import Cards
from ui.compose.places import write_place
from ui.compose.request import CELLS, read_chosen, read_wanted
from ui.context import Context

_FIELDS = {
    "base": "bundled:demo_base", "prompt": "a cat", "seed": "7", "steps": "4", "cfg": "2.5",
    "size": "64",
}  # fmt: skip


@pytest.fixture
def cards(context: Context, runs: Path) -> Cards:
    """The adapters of one finished run."""
    make_run(runs, "fox", steps=20, every=10)
    return Cards(context)


def _one(**changes: Any) -> dict[str, Any]:
    return {"id": "run/fox", "weight": 0.8, "parts": {}, "blocks": {}, **changes}


def test_weights_are_the_products_that_the_library_takes(cards: Cards) -> None:
    one = _one(parts={"text": 0.5}, blocks={"mid": 0, "up.1": -1.5})
    chosen = read_chosen([one], cards)[0]
    assert str(chosen.weights) == "0.8,text=0.5,mid=0,up.1=-1.5"


@pytest.mark.parametrize("region", ["left", "right", "top", "bottom"])
def test_a_half_is_half_of_the_cells_on_its_side(cards: Cards, tmp_path: Path, region: str) -> None:
    from PIL import Image

    cells = read_chosen([_one(region=region)], cards)[0].cells
    assert cells.count("1") == CELLS * CELLS / 2
    with Image.open(write_place(tmp_path, cells)) as drawn:
        middle, far = drawn.width // 2, drawn.width - 1
        inside = {
            "left": (0, middle), "right": (far, middle), "top": (middle, 0), "bottom": (middle, far)
        }  # fmt: skip
        for side, place in inside.items():
            if side == region:
                assert drawn.getpixel(place) == 255
        opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
        assert drawn.getpixel(inside[opposite[region]]) == 0


def test_the_prompt_of_a_place_is_kept_only_with_a_place(cards: Cards) -> None:
    assert read_chosen([_one(region="left", there=" a fox ")], cards)[0].there == "a fox"
    assert read_chosen([_one(there="a fox")], cards)[0].there == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight": "much"}, "fox: a weight"),
        ({"weight": float("nan")}, "fox: a weight"),
        ({"weight": 5}, "fox: a weight"),
        ({"blocks": {"mid": None}}, "fox: a weight"),
        ({"blocks": {"nowhere": 1}}, "no block"),
        ({"parts": {"nothing": 1}}, "no model"),
        ({"region": "painted", "cells": "01"}, "paint where"),
        ({"id": "run/../../etc"}, "is gone"),
        ({"id": None}, "is gone"),
    ],
)
def test_what_can_not_be_weighed(cards: Cards, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_chosen([_one(**change)], cards)


def test_the_same_adapter_twice(cards: Cards) -> None:
    with pytest.raises(InputError, match="twice"):
        read_chosen([_one(), _one()], cards)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "  "}, "Prompt"),
        ({"base": ""}, "Base model"),
        ({"seed": "-1"}, "Seed"),
        ({"seed": "²"}, "Seed"),
        ({"steps": "0"}, "Steps"),
        ({"steps": "4.5"}, "Steps"),
        ({"cfg": "31"}, "Guidance"),
        ({"cfg": "inf"}, "Guidance"),
        ({"size": "31"}, "Size"),
        ({"size": None}, "Size"),
        ({"size": "64x65"}, "Size"),
        ({"size": "64x64x64"}, "Size"),
    ],
)
def test_what_can_not_be_drawn(cards: Cards, change: dict[str, Any], said: str) -> None:
    good = read_wanted({**_FIELDS, "chosen": [], "size": "128x64"}, cards)
    assert (good.seed, good.width_px, good.height_px) == (7, 128, 64)
    with pytest.raises(InputError, match=f"^{said}"):
        read_wanted({**_FIELDS, "chosen": [], **change}, cards)
