"""`lora-diffusion search-weights` on the demo base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_diffusion import bundled
from lora_diffusion.families import load_base
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import fill
from trainers.cli.main import main


@pytest.fixture(scope="module")
def adapters(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("adapters")
    base = load_base("bundled:demo_base")
    for seed, name in enumerate(("noise", "more_noise")):
        handle = inject(base.parts, AdapterConfig(rank=2, seed=seed))
        fill(handle, seed=seed, spread=0.2)
        handle.save(folder / f"{name}.safetensors")
        handle.remove()
    return [str(folder / "noise.safetensors"), str(folder / "more_noise.safetensors")]


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("01.png", "01.txt"):
        (folder / name).write_bytes((bundled.resolve("bundled:demo_character") / name).read_bytes())
    return folder


def test_noise_is_turned_off_by_pictures(adapters, pictures, tmp_path, capsys):
    argv = ["search-weights", *adapters, "--toward", str(pictures), "--held_out", str(pictures)]
    argv += ["--timesteps", "2", "--trials", "12", "--device", "cpu", "--json"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["weights"]) == adapters
    assert max(map(float, told["weights"].values())) < 0.6
    for scores in told["scores"].values():
        assert scores["found"] > scores["equal, 1 each"]
    assert f"--adapter {adapters[0]}:" in told["command"]
    assert json.loads((tmp_path / "out" / "weights.json").read_text()) == told
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == told["score"]


def test_by_a_function_of_the_users_per_block(adapters, tmp_path, capsys):
    judge = tmp_path / "judge.py"
    judge.write_text(
        "import numpy as np\n"
        "def bright(pictures, prompts):\n"
        "    assert prompts == ['a red circle']\n"
        "    return float(np.mean([np.asarray(p) for p in pictures]))\n"
    )
    argv = [
        "search-weights",
        f"{adapters[0]}:0.4,up.1=2",
        "--score",
        f"{judge}:bright",
        "--prompt",
        "a red circle",
    ]
    argv += ["--steps", "2", "--trials", "1", "--per", "block", "--device", "cpu", "--json"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "mid=0.4" in told["weights"][adapters[0]]  # what was given comes first
    assert "up.1=0.8" in told["weights"][adapters[0]]
    assert told["score"] == told["scores"]["score"]["found"] > 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "one of --toward and --score"),
        (["--score", "a.py:b"], "--score needs at least one --prompt"),
        (["--toward", "nowhere", "--low", "2"], "--low must be less"),
        (["--toward", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_searched_is_told_in_one_line(options, reason, adapters, tmp_path, capsys):
    assert main(["search-weights", adapters[0], *options, "--out", str(tmp_path)]) == 2
    assert reason in capsys.readouterr().err
