"""Buckets, masks, mirroring and changing captions through whole runs and through the step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_diffusion import bundled, load
from lora_diffusion.errors import InputError
from lora_diffusion.families import folder as folder_module
from lora_diffusion.families import load_base
from tests.trainers.assembled import assemble
from tests.trainers.conftest import assert_same_tensors
from trainers.dreambooth_lora import main
from trainers.layering import build_spec
from trainers.loop import Trainer
from trainers.machine import devices
from trainers.planner.plan import plan

SIZES = {"wide": (120, 60), "tall": (60, 120), "square": (70, 70), "wider": (160, 60)}
STEPS = 5


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of four shapes; the tall one is half transparent."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        pixels = noise.integers(0, 255, (height, width, 4), np.uint8)
        pixels[..., 3] = 255
        if name == "tall":
            pixels[:, : width // 2, 3] = 0
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"sks, {name}, red, old, big", encoding="utf-8")
    return folder


def settings(pictures, **data) -> dict:
    return {
        "adapter": {"rank": 2},
        "optim": {"lr_unet": 1e-3, "lr_text": 0.0},
        "data": {"folder": str(pictures), "trigger": "sks", **data},
        "model": {"precision": "fp32", "device": "cpu"},
        "schedule": {"steps": STEPS, "batch_size": 2},
    }


def make_trainer(pictures, **data) -> Trainer:
    spec = build_spec([settings(pictures, **data)])
    base = load_base(bundled.resolve("bundled:demo_base"), dtype=devices.choose(spec.model).dtype)
    return assemble(spec, STEPS, base)


def test_batches_have_one_shape_and_say_where_it_comes_from(pictures):
    trainer = make_trainer(pictures)
    seen = set()
    for number in range(trainer.batches.order.batches_in_epochs(2)):
        batch = trainer.batches.make(number)
        sides = {size.target_px for size in batch.sizes}
        assert len(sides) == 1
        assert [side * 2 for side in batch.latents.shape[2:]] == list(sides.pop())
        assert batch.share == len(batch.captions) / 2
        assert torch.isfinite(trainer.loss(batch))
        seen |= {(size.original_px, size.target_px) for size in batch.sizes}
    assert seen == {
        ((60, 120), (48, 80)), ((120, 60), (80, 48)), ((70, 70), (64, 64)), ((60, 160), (32, 128)),
    }  # fmt: skip


def test_what_a_mask_hides_does_not_change_the_loss(pictures):
    def loss_of_the_tall_one(**data) -> tuple[float, float]:
        trainer = make_trainer(pictures, masked_loss=True, **data)
        numbers = range(trainer.batches.order.batches_in_epochs(1))
        batch = next(
            b for b in map(trainer.batches.make, numbers) if b.sizes[0].target_px == (80, 48)
        )
        assert batch.mask.shape == (1, 1, 40, 24)
        assert batch.mask[..., :11].max() == 0
        assert batch.mask[..., 13:].min() == 1
        before = trainer.loss(batch).item()
        predict = trainer.base.predict

        def wrong_on_the_left(*inputs):
            off = torch.zeros(1, 4, 40, 24)
            off[..., :11] = 100
            return predict(*inputs) + off

        trainer.base.predict = wrong_on_the_left
        return before, trainer.loss(batch).item()

    before, after = loss_of_the_tall_one()
    assert after == pytest.approx(before)
    before, after = loss_of_the_tall_one(unmasked_weight=0.1)
    assert after > 10 * before


def test_a_weight_of_nought_learns_nothing(pictures, tmp_path):
    subsets = [{"folder": str(pictures), "weight": 0.0}]
    trainer = make_trainer(pictures, subsets=subsets)
    assert trainer.loss(trainer.batches.make(0)).item() == 0


@pytest.mark.parametrize("cache", ["memory", "off"])
def test_looks_and_words_change_from_visit_to_visit_and_are_repeatable(pictures, cache):
    changing = {
        "flip": 0.5, "random_crop": True, "colour_jitter": 0.1, "shuffle_parts": True,
        "keep_parts": 1, "cache": cache, "cache_variants": 3,
    }  # fmt: skip
    one, other = make_trainer(pictures, **changing), make_trainer(pictures, **changing)
    numbers = [9, 2, 30, 17]
    for number in numbers:
        first, second = one.batches.make(number), other.batches.make(number)
        assert torch.equal(first.latents, second.latents)
        assert (first.captions, first.sizes) == (second.captions, second.sizes)
    batches = [one.batches.make(number) for number in range(120)]
    captions = {c for batch in batches for c in batch.captions if "square" in c}
    means = {
        (s.original_px, s.crop_px)
        for batch in batches
        for s in batch.sizes
        if s.original_px == (60, 160)
    }
    assert all(caption.startswith("sks, ") for caption in captions)
    if cache == "memory":
        assert len(captions) == 3
        assert len(means) <= 6
    else:
        assert len(captions) > 6
        assert len(means) > 6


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"random_crop": True, "cache_variants": 1}, ["data.random_crop", "data.cache_variants"]),
        ({"colour_jitter": 0.1, "cache_variants": 1}, ["data.colour_jitter", "cache_variants"]),
        ({"shuffle_parts": True, "cache_variants": 1}, ["data.shuffle_parts", "cache_variants"]),
        ({"wildcards": True, "cache_variants": 1}, ["data.wildcards", "data.cache_variants"]),
        ({"keep_parts": 1}, ["data.keep_parts", "data.shuffle_parts"]),
        ({"unmasked_weight": 0.1}, ["data.unmasked_weight", "data.masked_loss"]),
        ({"buckets": False, "upscale": True}, ["data.upscale", "data.buckets"]),
        ({"cache_folder": "x"}, ["data.cache_folder", "data.cache disk"]),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(pictures, data, words):
    with pytest.raises(InputError) as caught:
        build_spec([settings(pictures, **data)])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_pictures_that_are_too_small_are_all_named(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (90, 20)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"a\.png.*90 x 20 px.*upscale true[\s\S]*b\.png"):
        make_trainer(tmp_path)
    assert make_trainer(tmp_path, upscale=True).batches.make(0).sizes[0].target_px == (32, 128)


def test_the_plan_lists_the_buckets_and_counts_their_batches(pictures):
    lines = plan(build_spec([settings(pictures), {"schedule": {"epochs": 3}}])).splitlines()
    assert "buckets       4" in lines
    assert "  80 x 48 px: 1 pictures, shown 1x an epoch, 17% cropped" in lines
    assert any(line.startswith("length        12 steps, 3.0 passes") for line in lines)
    square = plan(build_spec([settings(pictures, buckets=False), {"schedule": {"epochs": 3}}]))
    assert "squares" in square
    assert "length        6 steps, 3.0 passes" in square


def test_a_run_with_buckets_resumes_bit_for_bit_and_tells_of_them(pictures, tmp_path, train):
    options = [
        "--data.folder", pictures, "--data.trigger", "sks", "--adapter.rank", 2,
        "--schedule.steps", STEPS, "--schedule.batch_size", 2, "--preview.enabled", "false",
        "--save.dtype", "fp32", "--save.name", "a", "--model.threads", 1, "--model.device", "cpu",
        "--save.checkpoint_every_steps", 3, "--data.flip", 0.5, "--data.random_crop", "true",
        "--data.shuffle_parts", "true", "--data.masked_loss", "true", "--schedule.accumulate", 2,
    ]  # fmt: skip
    whole, again = tmp_path / "whole", tmp_path / "again"
    train(*options, "--output_dir", whole)
    (again / "checkpoints").mkdir(parents=True)
    name = "checkpoints/step-00000003.safetensors"
    (again / name).write_bytes((whole / name).read_bytes())
    train(*options, "--output_dir", again, "--resume")
    assert_same_tensors(whole / "a.safetensors", again / "a.safetensors")
    told = json.loads(load(whole / "a.safetensors").metadata["ss_bucket_info"])["buckets"]
    found = {tuple(each["resolution"]): each["count"] for each in told.values()}
    assert found == {(80, 48): 1, (48, 80): 1, (64, 64): 1, (128, 32): 1}


def test_the_second_run_with_a_disk_cache_loads_neither_vae_nor_text_encoder(
    pictures, tmp_path, monkeypatch
):
    def run(name: str) -> Path:
        folder = tmp_path / name
        options = [
            "--data.folder", pictures, "--data.trigger", "sks", "--adapter.rank", 2,
            "--schedule.steps", 1, "--optim.lr_text", 0, "--preview.enabled", "false",
            "--data.cache", "disk", "--data.cache_folder", tmp_path / "cache",
            "--model.device", "cpu", "--save.name", "a", "--output_dir", folder,
        ]  # fmt: skip
        assert main([str(option) for option in options]) == 0
        return folder / "a.safetensors"

    first = run("first")

    def refuse(request, part, *rest):
        raise AssertionError(f"{part} was loaded")

    load_model = folder_module._diffusers_model
    monkeypatch.setattr(
        folder_module,
        "_diffusers_model",
        lambda request, part, *rest: (load_model if part == "unet" else refuse)(
            request, part, *rest
        ),
    )
    monkeypatch.setattr(folder_module, "_text_encoder", refuse)
    assert_same_tensors(first, run("second"))
    shutil.copytree(pictures, tmp_path / "more")
    with (tmp_path / "more" / "wide.png").open("ab") as file:
        file.write(b"\0")
    pictures = tmp_path / "more"
    with pytest.raises(AssertionError, match="vae was loaded"):
        run("third")
