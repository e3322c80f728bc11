"""`lora-diffusion convert`: every way between the dialects, notes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.factors import DoRAFactors, LoRAFactors
from lora_diffusion.formats import FORMATS, TrainingFacts, load_adapter, save_adapter
from lora_diffusion.formats.metadata import facts_from_metadata
from lora_diffusion.keys import LayerKey
from trainers.cli.main import main

TO_K = LayerKey("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k")
TE = LayerKey("text_encoder", "text_model.encoder.layers.0.mlp.fc1")


def adapter(arch: str = "sdxl", alpha: float = 2.0) -> AdapterFile:
    width = {"sd15": 768, "sdxl": 2048}[arch]
    generator = torch.Generator().manual_seed(0)
    return AdapterFile(
        arch,
        {
            TO_K: LoRAFactors(
                torch.randn(4, width, generator=generator),
                torch.randn(8, 4, generator=generator),
                alpha,
            )
        },
    )


def converted(
    source: Path, out: Path, to: str, capsys: pytest.CaptureFixture[str], *more: str
) -> dict[str, Any]:
    assert main(["convert", str(source), str(out), "--to", to, "--json", *more]) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    found = json.loads(printed)
    assert isinstance(found, dict)
    assert found.keys() == {
        "out", "format", "layers", "notes", "portable", "readers", "unread",
    }  # fmt: skip
    return found


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_every_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, to: str
) -> None:
    start, out = (
        tmp_path / (name if format == "peft" else f"{name}.safetensors")
        for name, format in (("start", source), ("out", to))
    )
    facts = TrainingFacts(title="Quill", arch="sdxl", trigger_words=("qzx",), seed=3)
    save_adapter(adapter(), start, dtype="fp32", format=source, facts=facts)
    found = converted(start, out, to, capsys)
    assert (found["format"], found["layers"], found["out"]) == (to, 1, str(out))
    if to == "diffusers" and source != "diffusers":
        assert "alpha is folded" in found["notes"][0]
    else:
        assert found["notes"] == []
    back = load_adapter(out)
    assert back.arch == "sdxl"
    expected = adapter().layers[TO_K].delta()
    torch.testing.assert_close(back.layers[TO_K].delta(), expected, rtol=1e-5, atol=1e-5)
    told = facts_from_metadata(back.metadata)
    assert told is not None
    assert (told.title, told.trigger_words, told.seed) == ("Quill", ("qzx",), 3)


@pytest.mark.parametrize(
    ("option", "written"),
    [([], torch.bfloat16), (["--dtype", "fp32"], torch.float32),
     (["--dtype", "fp16"], torch.float16)],
)  # fmt: skip
def test_dtype_stays_unless_another_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], written: torch.dtype
) -> None:
    start, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_adapter(adapter(), start, dtype="bf16")
    converted(start, out, "kohya", capsys, *option)
    assert {tensor.dtype for tensor in load_file(out).values()} == {written}


def test_the_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_adapter(adapter("sd15"), start)
    assert main(["convert", str(start), str(out), "--to", "diffusers"]) == 0
    printed, err = capsys.readouterr()
    assert printed.endswith("b.safetensors: 1 layers in the diffusers format, fp16.\n")
    assert err.startswith("note: alpha is folded")


@pytest.mark.parametrize(
    ("to", "readers"),
    [("kohya", 5), ("peft", 0), ("diffusers", 1), ("lycoris", 1)],
)
def test_who_reads_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, readers: int
) -> None:
    start, out = tmp_path / "a.safetensors", tmp_path / ("b" if to == "peft" else "b.safetensors")
    save_adapter(adapter(), start)
    found = converted(start, out, to, capsys)
    assert found["portable"] == (readers == 5)
    assert (len(found["readers"]), len(found["unread"])) == (readers, 5 - readers)
    assert main(["convert", str(start), str(out), "--to", to, "--overwrite"]) == 0
    words = capsys.readouterr().err
    assert ("is portable: diffusers, A1111/Forge" in words) == (readers == 5)
    assert ("is not portable" in words) == (readers < 5)


def test_one_alpha_is_for_diffusers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    layers = {LayerKey("unet", TO_K.path.replace("to_k", f"to_{x}")):
              LoRAFactors(torch.ones(rank, 2048), torch.ones(8, rank), float(rank))
              for x, rank in (("k", 4), ("v", 8))}  # fmt: skip
    save_adapter(AdapterFile("sdxl", layers), start)
    found = converted(start, out, "kohya", capsys)
    assert list(found["unread"]) == ["diffusers"]
    assert "one alpha, the most common" in found["unread"]["diffusers"]
    assert converted(start, out, "kohya", capsys, "--one-alpha", "--overwrite")["portable"]
    for key, factors in load_adapter(out).layers.items():
        torch.testing.assert_close(factors.delta(), layers[key].delta())


def test_embeddings_travel_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    name = "bundle_emb.cat.string_to_param.*"
    save_adapter(adapter(), start, embeddings={name: torch.ones(2, 768)})
    notes = converted(start, out, "kohya", capsys)["notes"]
    assert "left out" in notes[-1]
    assert name not in load_file(out)
    notes = converted(start, out, "kohya", capsys, "--keep-embeddings", "--overwrite")["notes"]
    assert len(notes) == 1
    assert name in load_file(out)
    assert (
        main(
            ["convert", str(start), str(out), "--to", "lycoris", "--keep-embeddings", "--overwrite"]
        )
        == 2
    )
    assert "cannot hold embeddings" in capsys.readouterr().err


def dora() -> AdapterFile:
    made = adapter("sd15").layers[TO_K]
    return AdapterFile(
        "sd15", {TO_K: DoRAFactors(made.down, made.up, 2.0, torch.ones(1, 768), "in")}
    )


def with_text() -> AdapterFile:
    layers = {**adapter("sd15").layers, TE: LoRAFactors(torch.ones(2, 768), torch.ones(8, 2), 1.0)}
    return AdapterFile("sd15", layers)


@pytest.mark.parametrize(
    ("made", "arguments", "cause"),
    [
        (dora(), ["b.safetensors", "--to", "diffusers"], "along the weight's inputs"),
        (dora(), ["b", "--to", "peft"], "along the weight's inputs"),
        (with_text(), ["b.safetensors", "--to", "lycoris"], "no name for layer 'text_encoder."),
        (adapter(), ["b.safetensors", "--to", "peft"], "is a folder"),
        (adapter(), [".", "--to", "kohya", "--overwrite"], "is a folder"),
        (adapter(), ["a.safetensors/b.safetensors", "--to", "kohya"], "cannot be written"),
        (None, ["b.safetensors", "--to", "kohya"], "no such file"),
    ],
)
def test_what_cannot_be_said_exits_2_with_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    made: AdapterFile | None,
    arguments: list[str],
    cause: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if made is not None:
        save_adapter(made, Path("a.safetensors"))
    before = sorted(tmp_path.iterdir())
    assert main(["convert", "a.safetensors", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert cause in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
