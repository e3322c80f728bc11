"""What is there already: every verb that writes leaves it, unless it is told otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.factors import LoRAFactors
from lora_diffusion.formats import save_adapter
from lora_diffusion.formats.header import read_header
from lora_diffusion.keys import LayerKey
from trainers.cli.main import VERBS, main

KEY = LayerKey("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k")

# verb -> (its words, with OUT where its output goes; what is in its way, beside or within OUT)
REFUSES = {
    "again": (("IN", "--out", "OUT"), ""),
    "analyse": (("IN", "--out", "OUT"), "spectra.png"),
    "bake": (("--base", "b.safetensors", "IN", "--out", "OUT"), ""),
    "convert": (("IN", "OUT", "--to", "diffusers"), ""),
    "extract": (("a", "b", "--rank", "1", "--out", "OUT"), ""),
    "grid": (("--x", "seed", "1", "--base", "b", "--prompt", "p", "--out", "OUT.png"), "OUT.json"),
    "merge": (("IN", "--out", "OUT"), ""),
    "probe": (("--arch", "sd15", "--out", "OUT"), ""),
    "relabel": (("IN", "--out", "OUT", "--clean"), ""),
    "resize": (("IN", "--rank", "1", "--out", "OUT"), ""),
    "search-weights": (("IN", "--base", "b", "--toward", "p", "--out", "OUT"), "weights.json"),
}
OTHERS = {
    "caption": "keeps what people wrote unless --overwrite is given; drafts as below",
    "doctor": "--fix wants a new folder",
    "explain": "writes nothing",
    "generate": "adds to the folder, numbers go on",
    "inspect": "writes nothing",
    "library": "leaves sidecars that are there",
    "verify": "writes nothing",
}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "in.safetensors"
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 768, generator=generator), torch.randn(8, 4, generator=generator)
    save_adapter(AdapterFile("sd15", {KEY: LoRAFactors(down, up, 4.0)}), path, format="kohya")
    return path


def test_every_verb_has_its_place_here() -> None:
    assert {verb.name for verb in VERBS} == REFUSES.keys() | OTHERS.keys()
    assert {verb.name for verb in VERBS if verb.output} == REFUSES.keys()


def _in_the_way(tmp_path: Path, out: Path, inside: str) -> Path:
    taken = out
    if inside.startswith("OUT."):
        taken = out.with_name(inside)
    elif inside:
        out.mkdir()
        taken = out / inside
    taken.write_bytes(b"mine")
    return taken


def _words(verb: str, adapter: Path, out: Path) -> list[str]:
    words = [str(adapter) if word == "IN" else word for word in REFUSES[verb][0]]
    return [verb, *(word.replace("OUT", str(out)) for word in words)]


@pytest.mark.parametrize("verb", REFUSES)
def test_what_is_there_is_left(
    verb: str, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "OUT"
    taken = _in_the_way(tmp_path, out, REFUSES[verb][1])
    assert main(_words(verb, adapter, out)) == 2
    printed, err = capsys.readouterr()
    assert printed == "" and err.count("\n") == 1
    assert f"{taken}: exists already." in err and "--overwrite" in err
    assert taken.read_bytes() == b"mine"


@pytest.mark.parametrize("verb", ["convert", "merge", "relabel", "resize"])
def test_it_is_replaced_when_asked_for(verb: str, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    assert main([*_words(verb, adapter, out), "--overwrite"]) == 0
    assert read_header(out).tensors


@pytest.mark.parametrize("verb", REFUSES.keys() - {"probe"})  # which has no input
def test_overwrite_alone_loses_nothing(
    verb: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the input is wrong, what is in the way stays, `--overwrite` or not."""
    monkeypatch.chdir(tmp_path)
    adapter.write_bytes(b"broken")
    out = tmp_path / "OUT"
    taken = _in_the_way(tmp_path, out, REFUSES[verb][1])
    assert main([*_words(verb, adapter, out), "--overwrite"]) == 2
    assert taken.read_bytes() == b"mine"


def test_a_folder_for_peft_is_one_output(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "peft"
    out.mkdir()
    words = ["convert", str(adapter), str(out), "--to", "peft"]
    assert main(words) == 0  # it was empty
    (out / "README.md").write_text("mine")
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert (out / "README.md").read_text() == "mine"


def test_drafts_that_are_there_are_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    drafts = tmp_path / "drafts.jsonl"
    drafts.write_bytes(b"mine")
    words = ["caption", str(tmp_path), "--with", "template", "--template", "a thing"]
    assert main([*words, "--drafts", str(drafts), "--overwrite"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert drafts.read_bytes() == b"mine"
