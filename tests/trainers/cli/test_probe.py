"""`lora-diffusion probe`: files of true size, and what inspect says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_diffusion.formats.describe import describe
from trainers.cli.main import main

FEW = ["--targets", "*.attn2.to_k", "--text-targets", "none", "--rank", "2"]


def test_the_file_and_what_it_says_of_itself(tmp_path: Path, capsys) -> None:
    out = tmp_path / "p.safetensors"
    options = ["--arch", "sd21", "--kind", "lora", "--rank", "2", "--alpha", "1", "--seed", "5"]
    assert main(["probe", *options, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["modules"] == {"unet": 192, "text_encoder": 138}
    found = describe(out)
    assert (found.arch, found.kind, found.rank, found.alpha) == ("sd21", "lora", 2, 1.0)
    assert (found.modules, found.problems) == (told["modules"], ())
    assert found.dtypes == {"F16": 990}
    assert found.metadata["ss_base_model_version"] == "sd_v2_v"
    assert found.summary.prediction == "v_prediction"
    again = tmp_path / "again.safetensors"
    assert main(["probe", *options, "--out", str(again)]) == 0
    assert describe(again).hashes.model == found.hashes.model


@pytest.mark.parametrize(
    ("kind", "expected", "arguments"),
    [
        ("lora", "lora", {}),
        ("locon", "locon", {}),
        ("dora", "dora", {"dora_wd": "True", "wd_on_output": "False"}),
        ("loha", "loha", {"algo": "loha"}),
        ("lokr", "lokr", {"algo": "lokr", "factor": "4"}),
    ],
)
def test_each_kind_is_told(tmp_path: Path, kind: str, expected: str, arguments: dict) -> None:
    out = tmp_path / f"{kind}.safetensors"
    more = {"locon": ["--targets", "*.conv1"], "lokr": ["--lokr-factor", "4"]}.get(kind, [])
    options = ["probe", "--arch", "sdxl", "--kind", kind, *FEW, *more, "--dtype", "bf16"]
    assert main([*options, "--out", str(out)]) == 0
    found = describe(out)
    assert (found.kind, found.arch, found.problems) == (expected, "sdxl", ())
    told = json.loads(found.metadata["ss_network_args"])
    assert arguments.items() <= told.items()
    module = "lycoris.kohya" if "algo" in arguments else "networks.lora"
    assert found.metadata["ss_network_module"] == module
    assert set(found.dtypes) == {"BF16"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kind", "locon", *FEW], ["--targets", "no convolution"]),
        (["--rank", "0"], ["--rank", "0 is not between 1 and"]),
        (["--alpha", "nan"], ["--alpha", "nan is not above 0"]),
        (["--alpha", "x"], ["--alpha", "invalid alpha value"]),
        (["--kind", "loha", "--format", "diffusers", *FEW], ["LoHa", "Write kohya or lycoris"]),
        (["--kind", "oft"], ["--kind", "oft"]),
        (["--format", "lycoris", "--rank", "1"], ["no name for layer", "text_encoder"]),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, capsys, options, words) -> None:
    command = ["probe", "--arch", "sd15", *options, "--out", str(tmp_path / "x.safetensors")]
    try:
        code = main(command)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for word in words:
        assert word in message
    assert not list(tmp_path.iterdir())
