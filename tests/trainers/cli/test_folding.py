"""`lora-diffusion bake`, `extract` and `resize` on a tiny base."""

from __future__ import annotations

import json

import pytest

from lora_diffusion import load
from lora_diffusion.families.stored import open_stored
from lora_diffusion.keys import UNET
from tests.lora_diffusion.composition.conftest import write_four
from tests.lora_diffusion.families import sd15_models
from trainers.cli.main import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    models = sd15_models.make_models()
    base = sd15_models.save_checkpoint(sd15_models.ldm_tensors(models), folder / "base.safetensors")
    parts = {UNET: models.unet, "text_encoder": models.text}
    return base, write_four(parts, folder)


def test_baking_extracting_and_resizing_report_their_errors(tmp_path, capsys, made):
    base, (lora, *_) = made
    baked, found, small = (tmp_path / f"{name}.safetensors" for name in ("baked", "found", "small"))

    def told(*argv: str) -> dict:
        assert main([*argv, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    report = told("bake", "--base", str(base), f"{lora}:0.5", "--out", str(baked))
    assert {layer["key"] for layer in report["layers"]} == {str(key) for key in load(lora).layers}
    assert report["max_error"] < 1e-5
    assert open_stored(baked).arch == "sd15"
    report = told("extract", str(baked), str(base), "--rank", "4", "--out", str(found))
    assert report["max_error"] < 1e-3
    assert report["left_out"] == []
    report = told("resize", str(found), "--energy", "0.5", "--out", str(small))
    assert max(layer["rank"] for layer in report["layers"]) < 4
    assert 0.1 < report["max_error"] <= 0.5**0.5 + 1e-3


def test_without_json_they_say_it_in_a_line(tmp_path, capsys, made):
    base, (lora, *_) = made
    out = tmp_path / "baked.safetensors"
    assert main(["bake", "--base", str(base), str(lora), "--out", str(out)]) == 0
    assert "rounding costs up to" in capsys.readouterr().out
    half = tmp_path / "half.safetensors"
    argv = ["extract", str(out), str(base), "--rank", "2", "--out", str(half)]
    assert main([*argv, "--text_targets", "none"]) == 0
    captured = capsys.readouterr()
    assert "layers differ that were not asked for" in captured.err
    assert "largest error" in captured.out
    assert main(["resize", str(half), "--rank", "1", "--out", str(tmp_path / "s.safetensors")]) == 0
    assert "rank 1 to 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "options", "word"),
    [
        ("resize", ["--rank", "2", "--error", "0.5", "--energy", "0.5"], "--energy"),
        ("resize", [], "rank"),
        ("bake", ["--base", "/no/base"], "/no/base"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, made, verb, options, word):
    out = tmp_path / "out.safetensors"
    assert main([verb, str(made[1][0]), *options, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert word in error
    assert not out.exists()
