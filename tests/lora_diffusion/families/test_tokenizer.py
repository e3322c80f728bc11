"""The CLIP tokenizer: built from the published merges, found in the cache, or asked for."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.families import hub, load_base, tokenizer
from tests.lora_diffusion.families.checks import message_of
from tests.lora_diffusion.families.sd15_models import (
    byte_tokenizer,
    ldm_tensors,
    make_models,
    save_checkpoint,
)

BPE = tokenizer.find_bpe_file()
needs_bpe = pytest.mark.skipif(BPE is None, reason="open_clip_torch is not installed")


@pytest.fixture(scope="module")
def clip() -> Any:
    assert BPE is not None
    return tokenizer.from_bpe_file(BPE)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No package, an empty cache (returned) and no network."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(tokenizer, "_BPE_PACKAGE", "no_such_package")
    return cache


def ids(words: Any, text: str) -> list[int]:
    return list(words(text, add_special_tokens=False).input_ids)


@needs_bpe
def test_published_ids(clip: Any) -> None:
    """Facts about CLIP that its users have written down."""
    assert clip("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (clip.bos_token_id, clip.eos_token_id, clip.pad_token_id) == (49406, 49407, 49407)
    assert len(clip) == 49408
    assert ids(clip, "") == []
    assert ids(clip, "!") == [256]  # byte 33 is the first symbol, and ends a word
    assert ids(clip, "hello world!") == [3306, 1002, 256]


@needs_bpe
def test_case_and_spaces_do_not_matter_and_any_letter_can_be_written(clip: Any) -> None:
    assert ids(clip, "A  Photo\tOF a\n cat ") == ids(clip, "a photo of a cat")
    for text in ("café", "日本語", "😀", "Straße"):
        assert ids(clip, text)
        assert clip.decode(ids(clip, text)) == text.lower()


@needs_bpe
def test_the_package_is_not_imported(clip: Any) -> None:
    assert ids(clip, "cat") == [2368]
    assert "open_clip" not in sys.modules


@needs_bpe
def test_saved_and_opened_it_is_the_same(clip: Any, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path / "tokenizer")
    for folder in (tmp_path, tmp_path / "tokenizer"):  # a model's folder serves as well
        again = tokenizer.from_folder(folder)
        assert again("a photo of a cat").input_ids == clip("a photo of a cat").input_ids
        assert again.pad_token_id == clip.pad_token_id


@needs_bpe
def test_the_older_pair_of_files_is_read(clip: Any, tmp_path: Path) -> None:
    write_pair(tmp_path)
    old = tokenizer.from_folder(tmp_path)
    for text in ("a photo of a cat", "it's 2024, (masterpiece:1.2)", "日本語"):
        assert old(text).input_ids == clip(text).input_ids


@needs_bpe
def test_a_cached_tokenizer_is_found_without_the_network(
    nowhere: Path, no_network: list[object]
) -> None:
    repository = nowhere / "models--openai--clip-vit-large-patch14"
    write_pair(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    found = tokenizer.find(None, print)
    assert found("a photo of a cat").input_ids[1:-1] == [320, 1125, 539, 320, 2368]


def write_pair(folder: Path) -> None:
    """vocab.json and merges.txt, as repositories hold them."""
    import json

    assert BPE is not None
    words = tokenizer.from_bpe_file(BPE)
    lines = gzip.decompress(BPE.read_bytes()).decode().split("\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(words.get_vocab()))
    merges = "\n".join(["#version: 0.2", *lines[1:48895]])
    (folder / "merges.txt").write_text(merges + "\n", encoding="utf-8")


def test_nowhere_to_be_had_names_three_ways_out(nowhere: Path) -> None:
    lines: list[str] = []
    with pytest.raises(InputError) as caught:
        tokenizer.find(None, lines.append)
    message = str(caught.value)
    assert "model.tokenizer" in message
    assert "pip install --no-deps open_clip_torch" in message
    assert "online" in message
    assert lines


def test_the_hub_is_asked_last(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def refuse(repo: str, name: str) -> Path:
        asked.append((repo, name))
        raise hub.HubError("no.")

    monkeypatch.setattr(hub, "file", refuse)
    with pytest.raises(InputError):
        tokenizer.find(None, print)
    assert asked == [("openai/clip-vit-large-patch14", "vocab.json")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip",
        gzip.compress(b"#version\na b\n"),
        gzip.compress(b"#version\n" + b"a b\n" * 60_000),
        gzip.compress(b"#version\n" + b"a b c\n" * 60_000),
        gzip.compress(b"\xff" * 100),
        gzip.compress(b"a b\n" * 60_000)[:-200],
    ],
)
def test_a_wrong_vocabulary_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bpe.txt.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bpe\.txt\.gz"):
        tokenizer.from_bpe_file(path)


@needs_bpe
def test_a_checkpoint_of_true_vocabulary_finds_its_tokenizer(
    tmp_path: Path, no_network: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    models = make_models(vocabulary=49408)
    path = save_checkpoint(ldm_tensors(models), tmp_path / "m.safetensors", dtype=torch.float16)
    base = load_base(path)
    assert base.count_tokens("a photo of a cat") == 5
    with torch.no_grad():
        assert base.encode_prompts(["a photo of a cat"]).context.shape == (1, 77, 64)
    # With CLIP's own vocabulary, another tokenizer is a mistake even if its ids would fit.
    byte_tokenizer().save_pretrained(tmp_path / "bytes")
    assert "not CLIP's" in message_of(path, tokenizer=tmp_path / "bytes")
