"""`lora-diffusion merge` on the demo base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_diffusion import load, load_base
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import fill
from trainers.cli.main import main


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[Path]:
    folder, parts = tmp_path_factory.mktemp("two"), load_base("bundled:demo_base").parts
    paths = []
    for name, config in (
        ("style", AdapterConfig(rank=4, seed=1)),
        ("figure", AdapterConfig(rank=3, alpha=1, targets="attn+ff", seed=2)),
    ):
        handle = inject(parts, config)
        fill(handle, config.seed, 0.15)
        handle.save(folder / f"{name}.safetensors")
        handle.remove()
        paths.append(folder / f"{name}.safetensors")
    return paths


def test_json_tells_the_error_of_each_layer_and_of_pictures(tmp_path, capsys, two):
    style, figure = two
    out = tmp_path / "both.safetensors"
    argv = ["merge", f"{style}:0.8", f"{figure}:-0.5,text=0", "--out", str(out), "--json"]
    drawn = ["--pictures", "1", "--base", "bundled:demo_base", "--prompt", "a red circle"]
    assert main([*argv, *drawn, "--steps", "3"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["method"] == "exact"
    assert len(told["layers"]) == len(load(out).layers)
    assert told["max_error"] == max(layer["error"] for layer in told["layers"])
    assert told["max_error"] < 2e-3
    assert all(layer["error_before_rounding"] < 1e-6 for layer in told["layers"])
    (picture,) = told["pictures"]
    assert picture["mean"] < 0.1 * picture["adapters"]
    assert {"key", "error", "rank", "kind"} <= told["layers"][0].keys()


def test_a_rank_or_an_error_makes_it_an_svd(tmp_path, capsys, two):
    small, exact = tmp_path / "small.safetensors", tmp_path / "exact.safetensors"
    words = [f"{two[0]}:0.8", f"{two[1]}:0.5"]
    assert main(["merge", *words, "--rank", "2", "--out", str(small), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["method"] == "svd"
    assert max(layer["rank"] for layer in told["layers"]) == 2
    assert 0.01 < told["max_error"] < 1
    assert main(["merge", *words, "--error", "0.2", "--out", str(exact)]) == 0
    captured = capsys.readouterr()
    assert "largest error" in captured.out
    assert f"layer {len(load(exact).layers)} of" in captured.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "exact", "--rank", "3"], ["svd"]),
        (["--method", "svd"], ["rank"]),
        (["--pictures", "2"], ["--base", "--prompt"]),
        (["--rank", "0"], ["at least 1"]),
        (["--density", "0.5"], ["density"]),
    ],
)
def test_settings_that_cannot_be_meant_are_one_line(tmp_path, capsys, two, options, words):
    out = tmp_path / "out.safetensors"
    assert main(["merge", str(two[0]), "--out", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words)
    assert not out.exists()


def test_a_file_that_goes_in_is_never_written_over(capsys, two):
    before = two[0].read_bytes()
    words = ["merge", str(two[0]), str(two[1]), "--out", str(two[0])]
    assert main([*words, "--overwrite"]) == 2
    assert "one of the files that go in" in capsys.readouterr().err
    assert two[0].read_bytes() == before
