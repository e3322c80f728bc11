"""Reading other tools' metadata, and hostile metadata."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import astuple

import pytest

from lora_diffusion.formats.metadata import TrainingFacts, build_metadata
from lora_diffusion.formats.summary import (
    MAX_NAME,
    MAX_TAGS_SHOWN,
    MAX_TRIGGERS,
    Summary,
    clean_metadata,
    summarise,
    trigger_words,
)

KOHYA = {
    "ss_output_name": "old_lora",
    "ss_sd_model_name": "v1-5-pruned.safetensors",
    "ss_sd_model_hash": "6ce0161689",
    "ss_base_model_version": "sd_v1",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "32",
    "ss_network_alpha": "16.0",
    "ss_clip_skip": "None",
    "ss_steps": "1200",
    "ss_epoch": "10",
    "ss_resolution": "(512, 512)",
    "ss_training_comment": "None",
    "ss_tag_frequency": json.dumps({"10_sks dog": {"dog": 9, "grass": 4}, "5_x": {"dog": 1}}),
}


def test_a_kohya_file() -> None:
    found = summarise(KOHYA)
    assert found.title == "old_lora"
    assert found.arch == "sd15"
    assert found.base == "v1-5-pruned.safetensors"
    assert found.base_hash == "6ce0161689"
    assert found.trigger_words == ("sks dog", "x")
    assert found.tags == (("dog", 10), ("grass", 4))
    assert (found.rank, found.alpha, found.steps, found.epochs) == ("32", "16.0", 1200, 10)
    assert found.clip_skip is None
    assert found.description == ""


def test_our_own_file() -> None:
    facts = TrainingFacts(
        title="Quill", base="demo_base", trigger_words=("qzx", "bird"), prediction="v_prediction",
        arch="sd21", author="Ada", description="A bird.", steps=5, clip_skip=2, pictures=3,
        thumbnail="data:image/jpeg;base64,AAAA",
    )  # fmt: skip
    found = summarise(build_metadata(facts))
    assert (found.title, found.base, found.author) == ("Quill", "demo_base", "Ada")
    assert found.trigger_words == ("qzx", "bird")
    assert (found.arch, found.prediction, found.clip_skip) == ("sd21", "v_prediction", 2)
    assert found.thumbnail == facts.thumbnail


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"modelspec.trigger_phrase": "a, b ,,a"}, ("a", "b")),
        ({"ss_datasets": '[{"subsets":[{"class_tokens":"tok","is_reg":false}]}]'}, ("tok",)),
        ({"ss_datasets": '[{"subsets":[{"class_tokens":"reg","is_reg":true}]}]'}, ()),
        ({"ss_datasets": '[{"subsets":[{"class_tokens":null}]}]'}, ()),
        ({"ss_dataset_dirs": '{"3_me":{"img_count":2},"plain":{}}'}, ("me",)),
        (
            {
                "modelspec.trigger_phrase": "best",
                "ss_datasets": '[{"subsets":[{"class_tokens":"tok"}]}]',
            },
            ("best",),
        ),
        ({}, ()),
    ],
)
def test_trigger_words_come_from_the_most_telling_place(
    metadata: dict[str, str], words: tuple[str, ...]
) -> None:
    assert trigger_words(metadata) == words


GARBAGE = (
    "", "null", "3", '"x"', "[", "{", "[[[]]]", "[null]", '[{"subsets":[null]}]', "[" * 50_000,
    '[{"subsets":{"a":1}}]', '{"a":[1]}', '{"a":{"b":"c"}}', '{"a":{"b":-1}}', '{"1_":{}}',
    '{"a":{"b":1e999}}', "\ud800", "x" * 2_000_000,
)  # fmt: skip


@pytest.mark.parametrize("value", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_counts_as_absent(value: str) -> None:
    keys = (
        "ss_datasets", "ss_tag_frequency", "ss_dataset_dirs", "ss_steps", "ss_clip_skip",
        "modelspec.architecture", "modelspec.prediction_type", "modelspec.thumbnail",
        "ss_base_model_version",
    )  # fmt: skip
    found = summarise(dict.fromkeys(keys, value))
    expected_steps = 3 if value == "3" else None
    assert found == Summary(steps=expected_steps, clip_skip=expected_steps)


PAYLOADS = (
    "\x1b[2J\x1b[31mred", "\x1b]8;;http://x\x07link\x1b]8;;\x07", "\x9b31m", "a\x00b", "a\rb\nc",
    "\u202egnp.exe", "\u2066x\u2069", "\u200b\u200fzero", "\ufeffbom", "\u2028line", "\ud800lone",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[bold red]x[/]", "x" * 100_000,
)  # fmt: skip
TEXT_KEYS = (
    "modelspec.title", "ss_output_name", "ss_sd_model_name", "ss_sd_model_hash",
    "modelspec.trigger_phrase", "modelspec.author", "modelspec.description", "modelspec.license",
    "modelspec.usage_hint", "modelspec.date", "ss_network_module", "ss_network_dim",
    "ss_network_alpha", "modelspec.resolution", "ss_training_comment", "modelspec.prediction_type",
)  # fmt: skip


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [s for item in value for s in strings(item)] if isinstance(value, tuple) else []


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_payloads_come_out_printable_and_bounded(payload: str) -> None:
    metadata = dict.fromkeys(TEXT_KEYS, payload + " visible")
    tags = json.dumps({f"10_{payload}": {payload: 3}})
    metadata |= {"ss_tag_frequency": tags, payload: payload}
    found = strings(astuple(summarise(metadata)))
    assert len(found) > 12
    cleaned = clean_metadata(metadata)
    for text in (*found, *cleaned.keys(), *cleaned.values()):
        assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert max(map(len, found)) <= 4_000
    assert len(summarise(metadata).title) <= MAX_NAME


def test_lists_are_bounded() -> None:
    words = ",".join(f"w{i}" for i in range(1_000))
    tags = json.dumps({"d": {f"t{i}": i + 1 for i in range(5_000)}})
    found = summarise({"modelspec.trigger_phrase": words, "ss_tag_frequency": tags})
    assert len(found.trigger_words) == MAX_TRIGGERS
    assert len(found.tags) == MAX_TAGS_SHOWN
    assert found.tags[0] == ("t4999", 5_000)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "https://tracker.example/x.png",
        "data:text/html;base64,AAAA",
        "data:image/svg+xml;base64,AAAA",
        'data:image/png;base64,AA" onload="alert(1)',
        "data:image/png;base64," + "A" * 1_000_000,
    ],
)
def test_only_small_pictures_pass_as_thumbnails(url: str) -> None:
    assert summarise({"modelspec.thumbnail": url}).thumbnail == ""
