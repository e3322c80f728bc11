"""`lora-diffusion inspect`: the JSON surface, the words, and bad files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.factors import DoRAFactors, LoRAFactors
from lora_diffusion.formats import TrainingFacts, save_adapter
from lora_diffusion.keys import LayerKey
from trainers.cli.main import main

TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
SURFACE = {
    "format", "arch", "kind", "rank", "alpha", "modules", "trigger_words", "base", "hashes",
    "metadata", "problems",
}  # fmt: skip


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    layers = {
        LayerKey("unet", TO_K): LoRAFactors(torch.ones(4, 768), torch.ones(32, 4), 2.0),
        LayerKey("unet", TO_K.replace("to_k", "to_v")): LoRAFactors(
            torch.ones(4, 768), torch.ones(32, 4), 2.0
        ),
        LayerKey("text_encoder", "text_model.encoder.layers.0.mlp.fc1"): LoRAFactors(
            torch.ones(8, 768), torch.ones(48, 8), 8.0
        ),
    }
    facts = TrainingFacts(
        title="Quill", base="demo_base", trigger_words=("qzx",), steps=400, pictures=12,
        tag_counts={"pics": {"hat": 3}}, author="Ada",
    )  # fmt: skip
    path = tmp_path / "quill.safetensors"
    save_adapter(AdapterFile("sd15", layers), path, dtype="fp16", facts=facts)
    return path


def inspected(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["inspect", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)  # one object and nothing else, or this fails
    assert isinstance(found, dict)
    return found


def test_the_json_surface(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(lora, capsys)
    raw = lora.read_bytes()
    data = raw[8 + int.from_bytes(raw[:8], "little") :]
    whole, tensors = hashlib.sha256(raw).hexdigest(), hashlib.sha256(data).hexdigest()
    assert found.keys() >= SURFACE
    assert {name: found[name] for name in SURFACE - {"metadata"}} == {
        "format": "kohya",
        "arch": "sd15",
        "kind": "lora",
        "rank": 4,
        "alpha": 2.0,
        "modules": {"unet": 2, "text_encoder": 1},
        "trigger_words": ["qzx"],
        "base": "demo_base",
        "hashes": {"sha256": whole, "autov2": whole[:10], "autov3": tensors[:12]},
        "problems": [],
    }
    assert found["ranks"] == {"4": 2, "8": 1}
    assert found["alphas"] == {"2": 2, "8": 1}
    assert found["metadata"]["sshs_model_hash"] == tensors
    assert found["metadata"]["ss_output_name"] == "Quill"


def test_the_words(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(lora)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in ("quill.safetensors", "Quill", "kohya", "sd15", "demo_base", "qzx", "400 steps",
                 "4 (2x), 8 (1x)", "unet 2", "hat (3)", "Ada", "AutoV3"):  # fmt: skip
        assert word in out
    assert len(out.splitlines()) < 40


def test_problems_are_shown(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(lora)
    bare = {name: tensor for name, tensor in tensors.items() if not name.endswith("alpha")}
    save_file(bare, lora)
    found = inspected(lora, capsys)
    assert found["problems"] == ["3 of 3 layers state no alpha; it counts as their rank there."]
    assert found["base"] is None
    assert found["trigger_words"] == []
    assert found["metadata"] == {}
    assert main(["inspect", str(lora)]) == 0
    assert "! 3 of 3 layers state no alpha" in capsys.readouterr().out


@pytest.mark.parametrize("format", ["kohya", "diffusers", "peft"])
def test_sdxl_in_every_dialect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    clip = "text_model.encoder.layers.{}.mlp.fc1"
    keys = [("unet", TO_K.replace("down_blocks.0", "down_blocks.1"), 2048)]
    keys += [("text_encoder", clip.format(i), 768) for i in range(2)]
    keys += [("text_encoder_2", clip.format(i), 1280) for i in range(3)]
    layers = {
        LayerKey(part, path): LoRAFactors(torch.ones(4, width), torch.ones(8, 4), 2.0)
        for part, path, width in keys
    }
    path = tmp_path / ("x" if format == "peft" else "x.safetensors")
    save_adapter(AdapterFile("sdxl", layers), path, format=format)
    found = inspected(path, capsys)
    assert (found["format"], found["arch"], found["kind"], found["rank"]) == (
        format, "sdxl", "lora", 4,
    )  # fmt: skip
    assert found["alpha"] == (4.0 if format == "diffusers" else 2.0)
    assert found["modules"] == {"unet": 1, "text_encoder": 2, "text_encoder_2": 3}
    assert len(found["problems"]) == (format == "peft")  # whose hashes they are
    assert main(["inspect", str(path)]) == 0
    words = capsys.readouterr().out
    assert "sdxl" in words
    assert "text_encoder_2 3" in words


def test_sd2_and_dora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dora = DoRAFactors(torch.ones(4, 1024), torch.ones(8, 4), 2.0, torch.ones(1, 1024), "in")
    path = tmp_path / "x.safetensors"
    save_adapter(AdapterFile("sd21", {LayerKey("unet", TO_K): dora}), path)
    found = inspected(path, capsys)
    assert (found["arch"], found["kind"], found["problems"]) == ("sd21", "dora", [])


PAYLOADS = ("\x1b[31mred", "\x1b]0;title\x07", "\u202egnp", "a\rb", "[bold]x[/bold]", ":smile:",
            "<script>alert(1)</script>", "[link=file:///etc/passwd]x[/link]", "\x9bx")  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_text_out_of_the_file_stays_text(
    lora: Path, capsys: pytest.CaptureFixture[str], payload: str
) -> None:
    metadata = {"modelspec.title": payload, "ss_sd_model_name": payload, payload: payload,
                "modelspec.trigger_phrase": payload,
                "modelspec.description": payload}  # fmt: skip
    evil = lora.with_name(f"evil{payload.replace('/', '')}.safetensors")
    save_file(load_file(lora), evil, metadata)
    assert main(["inspect", str(evil)]) == 0
    words = capsys.readouterr().out
    found = inspected(evil, capsys)
    shown = (words, *found["metadata"], *found["metadata"].values(), found["base"], found["file"])
    for text in shown:
        categories = {unicodedata.category(c) for c in text if c != "\n"}
        assert not categories & {"Cc", "Cf", "Cs"}
    kept = "".join(c for c in " ".join(payload.split()) if c.isprintable())
    assert kept in words  # markup and emoji codes are shown, not obeyed
    assert found["base"] == kept


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "0 bytes"),
        (b"PK\x03\x04" + bytes(60), "pickle"),
        (b"\x80\x04\x95" + bytes(60), "pickle"),
        (b"<html>", "web page"),
        (b"\xff" * 16, "not a safetensors file"),
    ],
)
@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_bad_files_exit_2_with_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    cause: str,
    json_flag: list[str],
) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    assert main(["inspect", str(path), *json_flag]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: bad.safetensors: ")
    assert cause in err
    assert err.count("\n") == 1


def test_missing_damaged_and_diverged_files_exit_2(
    lora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(lora.with_name("none"))]) == 2
    assert "no such file" in capsys.readouterr().err
    tensors = load_file(lora)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, lora)
    assert main(["inspect", str(lora)]) == 2
    assert "NaN" in capsys.readouterr().err
    lora.write_bytes(lora.read_bytes()[:-5])
    assert main(["inspect", str(lora)]) == 2
    assert "cut short" in capsys.readouterr().err


def test_as_a_process_without_torch(lora: Path) -> None:
    command = [sys.executable, "-m", "trainers.cli", "inspect", str(lora), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["rank"] == 4
    command[-2:] = [str(lora) + "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    code = (
        "import sys; from trainers.cli.main import main; "
        f"code = main(['inspect', {str(lora)!r}]); sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
