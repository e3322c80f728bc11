"""The contact sheet shows every picture in its place, and says what it is."""

from __future__ import annotations

import numpy as np
from PIL import Image

from trainers.contact_sheet import Column, choose_columns, draw_sheet

COLOURS = {(0, 0): (200, 0, 0), (0, 1): (0, 200, 0), (9, 0): (0, 0, 200), (9, 1): (200, 200, 0)}


def sheet(tmp_path, trigger="sks"):
    for (step, row), colour in COLOURS.items():
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{step}-{row}.png")
    columns = [Column(s, [tmp_path / f"{s}-{r}.png" for r in (0, 1)]) for s in (0, 9)]
    prompts = ["a sks creature " * 8, "asks for a circle"]
    draw_sheet("name", "facts", prompts, trigger, columns, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        return np.asarray(image.convert("RGB"), dtype=int)


def where(pixels, colour):
    """Centre (y, x) of a colour."""
    ys, xs = np.nonzero((pixels == colour).all(-1))
    return ys.mean(), xs.mean()


def test_prompts_go_down_and_steps_across(tmp_path):
    pixels = sheet(tmp_path)
    places = {key: where(pixels, colour) for key, colour in COLOURS.items()}
    assert places[0, 0][0] == places[9, 0][0] < places[0, 1][0] == places[9, 1][0]
    assert places[0, 0][1] == places[0, 1][1] < places[9, 0][1] == places[9, 1][1]


def test_rows_with_the_trigger_are_marked(tmp_path):
    accent = np.array([0x2F, 0x4B, 0xD8])
    marked = (np.abs(sheet(tmp_path) - accent).sum(-1) == 0)[:, :60]
    rows = np.nonzero(marked.any(1))[0]
    assert 200 < rows.max() - rows.min() < 240  # the first row alone: 'asks' is another word
    assert not (np.abs(sheet(tmp_path, trigger=None) - accent).sum(-1) == 0)[:, :32].any()


def test_at_most_six_columns_with_both_ends():
    columns = [Column(step, []) for step in range(0, 1000, 10)]
    chosen = [c.step for c in choose_columns(columns)]
    assert len(chosen) == 6
    assert (chosen[0], chosen[-1]) == (0, 990)
    assert chosen == sorted(set(chosen))
    assert len(choose_columns(columns[:3])) == 3
