"""`lora-diffusion grid` on the demo base."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_diffusion.errors import InputError
from lora_diffusion.families import load_base
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import fill
from trainers.cli import base_flags
from trainers.cli.main import main
from trainers.grid.axes import Cell, cells, parse_axis
from trainers.grid.drawing import draw_cells
from trainers.grid.sheet import read_parameters

QUICK = ["--steps", "2", "--cfg", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def base():
    return load_base("bundled:demo_base")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "mine.safetensors"
    handle = inject(base.parts, AdapterConfig(rank=4))
    fill(handle, spread=0.2)
    handle.save(path)
    handle.remove()
    return path


def test_a_sheet_has_labels_and_its_parameters_inside(adapter, tmp_path, capsys, monkeypatch):
    opened: list[object] = []
    real = base_flags.open_base

    def counted(arguments, base=None):
        opened.append(base)
        return real(arguments, base)

    monkeypatch.setattr("trainers.cli.grid.open_base", counted)
    out = tmp_path / "sheet.png"
    argv = ["grid", "--x", "weight", "0", "1", "--y", "seed", "1-2", "--adapter", str(adapter)]
    assert main([*argv, *QUICK, "--prompt", "a red circle", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert opened == ["bundled:demo_base"]
    with Image.open(out) as sheet:
        assert sheet.width > 2 * 192 and sheet.height > 2 * 192
        assert "X: weight 0; weight 1" in sheet.text["parameters"]
        assert "a red circle" in sheet.text["parameters"]
    inside = read_parameters(out)
    assert inside == json.loads(out.with_suffix(".json").read_text())
    assert inside == {name: told[name] for name in inside}
    assert inside["rows"][1][1] == {
        "base": "bundled:demo_base", "prompt": "a red circle", "negative": "", "seed": 2,
        "steps": 2, "cfg": 1.0, "adapters": {str(adapter): "1"},
    }  # fmt: skip


def test_cells_are_what_each_would_be_alone(adapter, base):
    fixed = Cell("bundled:demo_base", "a red circle", steps=2, cfg=1.0)
    x, y = parse_axis(["adapter", "none", f"{adapter}:0.5"]), parse_axis(["seed", "1", "2"])
    rows = cells(x, y, fixed)
    steps: list[tuple[int, int]] = []
    sheet = draw_cells(rows, lambda _: base, on_step=lambda *done: steps.append(done))
    assert steps[-1] == (8, 8)
    for number, row in enumerate(rows):
        for place, cell in enumerate(row):
            alone = draw_cells([[cell]], lambda _: base)[0][0]
            off = np.abs(np.asarray(alone, int) - np.asarray(sheet[number][place], int))
            assert off.max() <= 1
    pixels = [np.asarray(picture, int) for row in sheet for picture in row]
    assert all(np.abs(a - b).mean() > 1 for a, b in pairwise(pixels))
    assert not any(type(m).__name__ == "AdaptedLayer" for m in base.unet.modules())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--x", "seed", "1"], "Give a --prompt"),
        (["--x", "colour", "1", "--prompt", "p"], "'colour' can't vary"),
        (["--x", "adapter", "nowhere.safetensors", "--prompt", "p"], "nowhere.safetensors"),
        (["--x", "seed", "1", "--prompt", "p", "--sampler", "slow"], "--sampler"),
    ],
)
def test_what_cannot_be_drawn_is_told_before_anything_is_loaded(options, reason, tmp_path, capsys):
    assert main(["grid", *options, "--out", str(tmp_path / "sheet.png")]) == 2
    assert reason in capsys.readouterr().err


def test_a_picture_that_is_no_sheet_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: is not a sheet"):
        read_parameters(tmp_path / "a.png")
