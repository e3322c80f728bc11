"""Taggers: known scores from known pixels, which tags are written and how, and bad models."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_diffusion.errors import InputError
from tests.trainers.data.captioners.shots import opened, several, shot
from tests.trainers.data.captioners.tiny_models import save_wd14
from trainers.data.captioners.plugin import Context
from trainers.data.captioners.wd14 import PLUGIN, Tag, Wd14Settings, choose, to_input


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wd14")
    save_wd14(folder)
    return folder


def test_tags_follow_the_pixels(tagger):
    # Each tag reads one channel, so that swapped channels, a wrong scale or layout show.
    red, green, blue, white, noise = opened("wd14", model=str(tagger)).caption(
        [
            shot("red", (30, 30)),
            shot("green", (30, 30)),
            shot("blue", (30, 30)),
            *several()[3:],
        ]
    )
    assert red == "hero (series), red (colour), ^_^"
    assert green == "green grass"
    assert blue == "blue sky"
    assert white == "hero (series), blue sky, green grass, red (colour), ^_^"
    assert "hero" not in noise


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"general_threshold": 0.5}, "hero (series), red (colour)"),
        ({"character_threshold": 0.95}, "red (colour), ^_^"),
        ({"characters": False}, "red (colour), ^_^"),
        ({"exclude": ("Red (colour)", "HERO_(series)")}, "^_^"),
        ({"underscores": True}, "hero_(series), red_(colour), ^_^"),
        ({"escape": True}, r"hero \(series\), red \(colour\), ^_^"),
        ({"max_tags": 2}, "hero (series), red (colour)"),
        ({"rating": True}, "hero (series), red (colour), ^_^, general"),
        ({"rating": True, "max_tags": 1}, "hero (series), general"),
        ({"general_threshold": 1.0, "characters": False}, ""),
    ],
)
def test_settings(tagger, settings, expected):
    captioner = opened("wd14", model=str(tagger), **settings)
    assert captioner.caption([shot("red", (30, 30))]) == [expected]


def test_likelier_tags_come_first():
    tags = [Tag(name, 0) for name in ("long_hair", "c", "d", "e")]
    scores = np.array([0.5, 0.9, 0.36, 0.35], np.float32)
    assert choose(scores, tags, Wd14Settings()) == "c, long hair, d"


@pytest.mark.parametrize("name", ["^_^", "o_o", "|_|", ">_o", "(o)_(o)"])
def test_faces_keep_their_underscore(name):
    scores = np.array([1.0], np.float32)
    assert choose(scores, [Tag(name, 0)], Wd14Settings()) == name


def test_pictures_are_padded_with_white_and_bgr():
    wide = Image.new("RGB", (40, 20), (10, 20, 30))
    row = to_input(wide, 40)
    assert row.shape == (40, 40, 3)
    assert row.dtype == np.float32
    assert (row[10:30] == [30, 20, 10]).all()
    assert (row[:10] == 255).all()
    assert (row[30:] == 255).all()


@pytest.mark.parametrize("batch", [1, 2])
def test_models_of_a_fixed_batch_and_another_size(tmp_path, batch, tagger):
    save_wd14(tmp_path, side_px=32, batch=batch)
    shots = several()
    expected = opened("wd14", model=str(tagger)).caption(shots)
    assert opened("wd14", model=str(tmp_path)).caption(shots) == expected


def test_bad_models_are_named(tmp_path, tagger):
    onnx, tags = (tagger / name for name in ("model.onnx", "selected_tags.csv"))
    cases = {
        "nothing": ({}, r"has no model\.onnx"),
        "no-tags": ({"model.onnx": onnx.read_bytes()}, r"has no selected_tags\.csv"),
        "noise": (
            {"model.onnx": b"noise" * 99, "selected_tags.csv": tags.read_bytes()},
            "can't be loaded",
        ),
        "columns": (
            {"model.onnx": onnx.read_bytes(), "selected_tags.csv": b"a,b\n1,2\n"},
            "columns name and category",
        ),
        "binary": (
            {"model.onnx": onnx.read_bytes(), "selected_tags.csv": b"\xff\xfe\x00"},
            "columns name and category",
        ),
        "other-tags": (
            {"model.onnx": onnx.read_bytes(), "selected_tags.csv": b"name,category\nx,0\n"},
            "7 scores.*1 tags",
        ),
    }
    for name, (files, words) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            opened("wd14", model=str(folder))
        assert name in str(caught.value)
    with pytest.raises(InputError, match="neither a folder here nor a hub id"):
        opened("wd14", model=str(tmp_path / "none"))


def test_a_model_of_other_pictures_is_refused(tmp_path, tagger):
    from onnx import TensorProto, helper, save

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", *zip(values))
    opsets = [helper.make_opsetid("", 18)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "model.onnx")
    (tmp_path / "selected_tags.csv").write_bytes((tagger / "selected_tags.csv").read_bytes())
    with pytest.raises(InputError, match=r"not pictures \[batch, side, side, 3\]"):
        opened("wd14", model=str(tmp_path))


def test_without_its_library_and_without_a_gpu(tagger, monkeypatch):
    context = Context("", "cuda", "auto", lambda text: None)
    settings = Wd14Settings(model=str(tagger))
    with pytest.raises(InputError, match="onnxruntime-gpu"):
        PLUGIN.open(settings, context)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'lora-diffusion\[wd14\]'"):
        PLUGIN.open(settings, context)
