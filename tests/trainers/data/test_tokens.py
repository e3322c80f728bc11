"""Token counts without transformers equal those with it."""

from __future__ import annotations

import pytest

from lora_diffusion.errors import InputError
from lora_diffusion.families.tokenizer import find_bpe_file, from_bpe_file
from trainers.data import tokens

needs_clip = pytest.mark.skipif(find_bpe_file() is None, reason="needs open_clip_torch's file")
TEXTS = [
    "a photo of a cat",
    "1girl, solo, red-hair, it's  8k\nmasterpiece!!! (best:1.2)",
    "Zoë’s café — naïve",
    "赤い帽子をかぶった女の子",
    "🐈🐕 x_y __w__ <lora:a:1>",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_counts_equal_the_librarys(text, demo_base):
    from transformers import CLIPTokenizer

    reference = CLIPTokenizer.from_pretrained(demo_base / "tokenizer", local_files_only=True)
    counter = tokens.find(str(demo_base))
    assert counter.count(text) == len(reference(text).input_ids) - 2


@needs_clip
def test_the_published_vocabulary_gives_clips_ids():
    counter, reference = tokens.find(), from_bpe_file(find_bpe_file())
    for text in TEXTS:
        assert counter.count(text) == len(reference(text).input_ids) - 2


@needs_clip
@pytest.mark.parametrize("words", [70, 75, 76, 77, 150, 300])
def test_what_lies_beyond_one_chunk_is_told(words):
    counter = tokens.find()
    text = " ".join(["cat", "dog"] * (words // 2) + ["cat"] * (words % 2))
    assert counter.count(text) == words
    assert len(counter.beyond(text).split()) == max(0, words - 75)


def test_broken_files_are_named(tmp_path):
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(InputError, match="tokenizer can't be read"):
        tokens.find(str(tmp_path))
