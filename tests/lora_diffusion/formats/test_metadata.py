"""What we write about a training, and that it comes back."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import fields, replace

import pytest
from PIL import Image

from lora_diffusion.formats.metadata import (
    MAX_TAGS,
    SPEC_KEY,
    TrainingFacts,
    build_metadata,
    facts_from_metadata,
    public_name,
    stated_arch,
    thumbnail_data_url,
)

FACTS = TrainingFacts(
    title="Quill",
    arch="sd15",
    prediction="epsilon",
    base="bundled:demo_base",
    base_hash="ab" * 32,
    kind="locon",
    rank=16,
    alpha=8.0,
    network_args={"conv_dim": "4"},
    seed=7,
    steps=400,
    epochs=20,
    batch_size=2,
    accumulate=3,
    lr_unet=1e-4,
    lr_text=5e-5,
    optimizer="adamw",
    schedule="cosine",
    warmup_steps=10,
    zero_snr=True,
    min_snr_gamma=5.0,
    network_dropout=0.1,
    gradient_checkpointing=True,
    width_px=512,
    height_px=640,
    buckets={"512x512": 30, "448x576": 12},
    clip_skip=2,
    pictures=12,
    class_pictures=30,
    folders={"pics": 12},
    tag_counts={"pics": {"hat": 3, "a red bird": 9}},
    trigger_words=("qzx", "bird"),
    started=1_700_000_000.0,
    finished=1_700_000_600.5,
    author="Ada",
    description="A bird.",
    license="CC0-1.0",
    usage_hint="weight 0.8",
    thumbnail="data:image/jpeg;base64,AAAA",
    precision="fp32",
    dtype="fp16",
    job='{"model":{"base":"bundled:demo_base"}}',
)


def test_what_the_other_tools_read() -> None:
    """The keys and values that A1111, Forge, Lora-Manager and sd-scripts' tools look for."""
    found = build_metadata(FACTS)
    expected = {
        "ss_output_name": "Quill",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_sd_model_name": "demo_base",
        "ss_new_sd_model_hash": "ab" * 32,
        "ss_network_module": "networks.lora",
        "ss_network_dim": "16",
        "ss_network_alpha": "8.0",
        "ss_network_args": '{"conv_dim":"4"}',
        "ss_clip_skip": "2",
        "ss_total_batch_size": "6",
        "ss_resolution": "(512, 640)",
        "ss_mixed_precision": "no",
        "ss_unet_lr": "0.0001",
        "ss_text_encoder_lr": "5e-05",
        "ss_training_started_at": "1700000000.0",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "Quill",
        "modelspec.resolution": "512x640",
        "modelspec.date": "2023-11-14T22:23:20Z",
        "modelspec.trigger_phrase": "qzx, bird",
        "modelspec.prediction_type": "epsilon",
        "modelspec.encoder_layer": "2",
    }
    assert {key: found.get(key) for key in expected} == expected
    assert json.loads(found["ss_tag_frequency"]) == {"pics": {"a red bird": 9, "hat": 3}}
    assert json.loads(found["ss_dataset_dirs"]) == {"pics": {"n_repeats": 1, "img_count": 12}}
    subset = json.loads(found["ss_datasets"])[0]["subsets"][0]
    assert subset["class_tokens"] == "qzx, bird"
    assert subset["img_count"] == 12
    assert all(isinstance(value, str) and value for value in found.values())
    assert "ot_branch" not in found


@pytest.mark.parametrize(
    ("arch", "prediction", "version", "architecture", "v2"),
    [
        ("sd15", "v_prediction", "sd_v1", "stable-diffusion-v1/lora", "False"),
        ("sd21", "epsilon", "sd_v2", "stable-diffusion-v2-512/lora", "True"),
        ("sd21", "v_prediction", "sd_v2_v", "stable-diffusion-v2-768-v/lora", "True"),
        ("sdxl", "epsilon", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "False"),
    ],
)
def test_architectures(
    arch: str, prediction: str, version: str, architecture: str, v2: str
) -> None:
    found = build_metadata(replace(FACTS, arch=arch, prediction=prediction))
    assert found["ss_base_model_version"] == version
    assert found["modelspec.architecture"] == architecture
    assert found["ss_v2"] == v2
    assert found["modelspec.prediction_type"] == prediction.removesuffix("_prediction")
    assert stated_arch(found) == arch
    only_kohya = {key: value for key, value in found.items() if key.startswith("ss_")}
    assert stated_arch(only_kohya) == arch


def test_facts_come_back_whole() -> None:
    defaults = TrainingFacts()
    unset = [f.name for f in fields(FACTS) if getattr(FACTS, f.name) == getattr(defaults, f.name)]
    assert unset == ["arch", "prediction"]  # so that this test covers every field
    back = facts_from_metadata(build_metadata(FACTS))
    assert back == replace(FACTS, base="demo_base")
    other = replace(FACTS, arch="sd21", prediction="v_prediction", base="me/base")
    assert facts_from_metadata(build_metadata(other)) == other


def test_unset_facts_are_left_out() -> None:
    found = build_metadata(TrainingFacts(title="x"))
    assert not [key for key, value in found.items() if value in ("", "None", "null")]
    assert "ss_seed" not in found
    assert "ss_datasets" not in found
    assert facts_from_metadata(found) == TrainingFacts(title="x")


@pytest.mark.parametrize(
    "record",
    [
        "", "null", "[]", "{", "[" * 100_000, '{"version":2,"facts":{}}', '{"version":1}',
        '{"version":1,"facts":[]}',
    ],
)  # fmt: skip
def test_a_damaged_record_is_no_record(record: str) -> None:
    assert facts_from_metadata({SPEC_KEY: record}) is None


def test_fields_of_the_wrong_type_in_a_record_are_dropped() -> None:
    wrong = {
        "title": 3, "rank": "4", "alpha": True, "trigger_words": "abc", "clip_skip": 1.5,
        "network_args": {"a": 1}, "folders": {"a": "b"}, "tag_counts": 3, "unknown": 1,
        "gradient_checkpointing": 1, "seed": 9,
    }  # fmt: skip
    record = json.dumps({"version": 1, "facts": wrong})
    metadata = {SPEC_KEY: record, "ss_tag_frequency": '{"a": {"b": "c"}}'}
    assert facts_from_metadata(metadata) == TrainingFacts(seed=9)


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/home/someone/models/base.safetensors", "base.safetensors"),
        ("C:\\Users\\someone\\base.safetensors", "base.safetensors"),
        ("~/models/base", "base"),
        ("../models/base", "base"),
        ("models/sd/base.safetensors", "base.safetensors"),
        ("someone/stable-diffusion", "someone/stable-diffusion"),
        ("bundled:demo_base", "demo_base"),
        ("", ""),
    ],
)
def test_no_folder_of_this_machine_is_published(location: str, shown: str) -> None:
    assert public_name(location) == shown
    facts = TrainingFacts(base=location)
    assert "someone/models" not in json.dumps(build_metadata(facts))
    assert build_metadata(facts).get("ss_sd_model_name", "") == shown


def test_many_tags_are_cut_to_the_most_frequent() -> None:
    tags = {f"tag {i}": i for i in range(MAX_TAGS + 500)}
    kept = json.loads(build_metadata(TrainingFacts(tag_counts={"d": tags}))["ss_tag_frequency"])
    assert len(kept["d"]) == MAX_TAGS
    assert min(kept["d"].values()) == 500


def test_thumbnail_is_a_small_jpeg() -> None:
    url = thumbnail_data_url(Image.new("RGBA", (800, 400), (200, 30, 30, 128)))
    head, _, body = url.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (256, 128)


def test_unknown_architecture() -> None:
    with pytest.raises(KeyError):
        build_metadata(TrainingFacts(arch="sd9"))
