"""`lora-diffusion verify`: the JSON surface, the words, bad files, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.base_layers import true_size
from lora_diffusion.consumers import CONSUMERS
from lora_diffusion.factors import LoRAFactors
from lora_diffusion.formats import save_adapter
from lora_diffusion.keys import LayerKey
from trainers.cli.main import main

TO_K = LayerKey("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k")


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    outputs, inputs = true_size("sd15")[TO_K]
    factors = LoRAFactors(torch.ones(4, inputs), torch.ones(outputs, 4), 2.0)
    path = tmp_path / "quill.safetensors"
    save_adapter(AdapterFile("sd15", {TO_K: factors}), path)
    return path


def test_the_json_surface(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(lora), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert (found["portable"], found["arch"], found["notes"]) == (True, "sd15", [])
    assert list(found["consumers"]) == found["readers"] == list(CONSUMERS)
    for each in found["consumers"].values():
        assert (each["consumed"], each["total"], each["dropped"]) == (3, 3, [])
        assert (each["delta"], each["wrong"], each["reads"]) == ("equal", [], True)


def test_what_is_dropped_is_named(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stem = next(iter(load_file(lora))).split(".")[0]
    save_file(load_file(lora) | {f"{stem}.dora_scale": torch.ones(1, 768)}, lora)
    assert main(["verify", str(lora), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["portable"]
    dropped = found["consumers"]["diffusers"]["dropped"]
    assert dropped == [{"key": f"{stem}.dora_scale", "reason": "it leaves dora_scale out"}]
    assert main(["verify", str(lora)]) == 0
    words = capsys.readouterr().out
    for word in ("diffusers", "3 of 4", "wrong", "InvokeAI", "4 of 4", "right", "Not portable"):
        assert word in words


def test_a_file_with_nan_in_it_is_refused(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(lora)
    name = next(n for n in tensors if n.endswith("lora_up.weight"))
    tensors[name][3, 2] = float("nan")
    save_file(tensors, lora)
    assert main(["verify", str(lora), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"'{name}' holds NaN" in err


def test_the_base_is_named(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(lora), "--base", "bundled:demo_base"]) == 0
    assert "demo_base has no layer of that name or shape: lora_unet_" in capsys.readouterr().out
    assert main(["verify", str(lora), "--base", str(lora.with_name("none"))]) == 2
    assert "there is nothing there" in capsys.readouterr().err
    assert main(["verify", str(lora), "--base", str(lora)]) == 2
    assert "a LoRA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "cause"), [(b"", "0 bytes"), (b"PK\x03\x04" + bytes(60), "pickle")]
)
def test_bad_files_exit_2_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, cause: str
) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    assert main(["verify", str(path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert cause in err
    assert err.count("\n") == 1


def test_names_cannot_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.safetensors"
    long = "lora_unet_" + "x" * 300
    save_file({f"{long}.lora_up.weight": torch.ones(2, 2)}, path)
    assert main(["verify", str(path)]) == 0
    assert "Not portable" in capsys.readouterr().out


def test_as_a_process_without_torch(lora: Path) -> None:
    code = (
        "import sys; from trainers.cli.main import main; "
        f"code = main(['verify', {str(lora)!r}]); sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
