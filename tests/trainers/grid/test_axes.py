"""What axes say, and what each cell of a sheet is then."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError
from trainers.grid.axes import Cell, cells, parse_axis

FOX, INK = Path("fox.safetensors"), Path("ink.safetensors")
FIXED = Cell(base="bundled:demo_base", prompt="a fox", seed=5)
ONE = Cell(base="b", prompt="a fox", adapters={FOX: Weights(0.8)})
TWO = Cell(base="b", prompt="a fox", adapters={FOX: Weights(0.8), INK: Weights()})


def test_values_may_be_spans_and_labels_are_for_people():
    assert parse_axis(["weight", "0:1:0.25"]).values == ("0", "0.25", "0.5", "0.75", "1")
    assert parse_axis(["weight", "-1", "0.3,up.1=0"]).values == ("-1", "0.3,up.1=0")
    assert parse_axis(["seed", "3-5", "9"]).labels == ("seed 3", "seed 4", "seed 5", "seed 9")
    assert parse_axis(["cfg", "2", "7.5"]).labels == ("CFG 2", "CFG 7.5")
    assert parse_axis(["weight.ink", "1"]).labels == ("weight of ink 1",)
    assert parse_axis(["adapter", "a/fox.safetensors:0.5", "none"]).labels == (
        "fox at 0.5", "no adapter"
    )  # fmt: skip
    assert parse_axis(["checkpoint", "models/dream.safetensors"]).labels == ("dream.safetensors",)


def test_x_runs_within_rows_and_y_from_row_to_row():
    rows = cells(parse_axis(["seed", "1", "2"]), parse_axis(["prompt", "a", "b", "c"]), FIXED)
    assert [[(cell.prompt, cell.seed) for cell in row] for row in rows] == [
        [("a", 1), ("a", 2)], [("b", 1), ("b", 2)], [("c", 1), ("c", 2)]
    ]  # fmt: skip
    one_row = cells(parse_axis(["steps", "5", "10"]), None, FIXED)
    assert [[cell.steps for cell in row] for row in one_row] == [[5, 10]]
    assert one_row[0][0].seed == 5


def test_the_same_seed_is_in_every_cell_unless_it_varies():
    rows = cells(parse_axis(["cfg", "2", "4"]), parse_axis(["steps", "5", "10"]), FIXED)
    assert {cell.seed for row in rows for cell in row} == {5}


def test_a_weight_is_of_the_only_adapter_of_the_varied_one_or_of_the_named_one():
    alone = cells(parse_axis(["weight", "0.5"]), None, ONE)[0][0]
    assert alone.adapters == {FOX: Weights(0.5)}
    named = cells(parse_axis(["weight.ink", "0.3"]), parse_axis(["weight.fox", "1"]), TWO)[0][0]
    assert named.adapters == {FOX: Weights(1), INK: Weights(0.3)}
    swapped = cells(parse_axis(["weight", "0.3"]), parse_axis(["adapter", str(INK), "none"]), ONE)
    assert [row[0].adapters for row in swapped] == [
        {FOX: Weights(0.8), INK: Weights(0.3)}, {FOX: Weights(0.8)}
    ]  # fmt: skip


def test_bases_vary_too():
    row = cells(parse_axis(["checkpoint", "one", "two"]), None, FIXED)[0]
    assert [cell.base for cell in row] == ["one", "two"]


@pytest.mark.parametrize(
    ("x", "y", "fixed", "reason"),
    [
        (["colour", "red"], None, FIXED, "'colour' can't vary"),
        (["seed"], None, FIXED, "has no values"),
        (["seed", "1.5"], None, FIXED, "seed takes whole numbers from 0, not '1.5'"),
        (["steps", "0"], None, FIXED, "steps takes whole numbers from 1"),
        (["cfg", "nan"], None, FIXED, "cfg takes numbers"),
        (["weight", "much"], None, ONE, "much"),
        (["weight", "0:1:-0.1"], None, ONE, "not a span"),
        (["seed", "1-9999"], None, FIXED, "too many"),
        (["seed", "1-30"], ["cfg", "1:30:1"], FIXED, "900 pictures"),
        (["seed", "1"], ["seed", "2"], FIXED, "Both axes vary seed"),
        (["weight", "1"], None, TWO, r"which adapter's\? Write weight.fox, weight.ink"),
        (["weight.dog", "1"], None, TWO, "which adapter's"),
        (["weight", "1"], None, FIXED, "Write an --adapter too"),
    ],
)
def test_what_cannot_be_a_sheet_is_refused(x, y, fixed, reason):
    with pytest.raises(InputError, match=reason):
        cells(parse_axis(x), parse_axis(y) if y else None, fixed)
