"""`lora-diffusion analyse` on the demo base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_diffusion.analyse import results
from lora_diffusion.families import load_base
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import fill
from trainers.cli.main import main


@pytest.fixture(scope="module")
def adapters(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    base = load_base("bundled:demo_base")
    for seed, kind in enumerate(("lora", "dora")):
        handle = inject(base.parts, AdapterConfig(kind=kind, rank=2, targets="attn", seed=seed))
        fill(handle, seed=seed)
        handle.save(folder / f"{kind}.safetensors")
        handle.remove()
    return [folder / "lora.safetensors", folder / "dora.safetensors"]


def test_json_pictures_and_words(adapters, tmp_path, capsys):
    argv = ["analyse", str(adapters[0]), f"{adapters[1]}:0.5", "--base", "bundled:demo_base"]
    assert main([*argv, "--layers", "mid", "--out", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [a["name"] for a in told["adapters"]] == ["lora", "dora"]
    assert told["adapters"][1]["weights"] == "0.5"
    assert set(told["adapters"][0]["blocks"]) == {"mid"}
    assert told["amplification"] and told["pairs"][0]["advice"]
    assert all(Path(path).exists() for path in told["pictures"])
    again = results.read(tmp_path / "analysis.json")
    assert again.pairs[0].first == "lora"


def test_it_tells_what_needs_a_base(adapters, capsys):
    assert main(["analyse", str(adapters[1]), "--layers", "mid"]) == 0
    out = capsys.readouterr().out
    assert "needs --base" in out
    assert "DoRA without a base" in out


def test_a_broken_file_is_refused_in_one_line(tmp_path, capsys):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing")
    assert main(["analyse", str(bad)]) == 2
    assert "bad.safetensors" in capsys.readouterr().err
