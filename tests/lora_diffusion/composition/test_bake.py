"""Baking: the live sum, written into the base's own files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_diffusion import bundled, compose, load_base
from lora_diffusion.composition.bake import BAKED_KEY, bake
from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError
from lora_diffusion.families.stored import open_stored
from lora_diffusion.formats.header import read_header
from lora_diffusion.generate import PictureSpec, draw
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import fill
from tests.lora_diffusion.composition.conftest import WEIGHTS
from tests.lora_diffusion.families import other_models, sd15_models

PICTURE = PictureSpec("a red circle", seed=3, sampling_steps=4, cfg=3.0, width_px=64, height_px=64)


@pytest.fixture(scope="module")
def fp32_folder(tmp_path_factory) -> Path:
    """The demo base, its weights in fp32."""
    folder = tmp_path_factory.mktemp("base") / "demo32"
    shutil.copytree(bundled.resolve("bundled:demo_base"), folder)
    for file in folder.rglob("*.safetensors"):
        save_file({name: t.float() for name, t in load_file(file).items()}, file)
    return folder


def test_live_is_baked_in_weights_and_in_pictures(fp32_folder, four, tmp_path):
    weighed = list(zip(four, map(Weights, WEIGHTS), strict=True))
    baked = bake(fp32_folder, weighed, tmp_path / "baked")
    again = bake(fp32_folder, reversed(weighed), tmp_path / "again")
    base = load_base(fp32_folder)
    plain = draw(base, [PICTURE])[0]
    stored = open_stored(tmp_path / "baked")
    with compose(base, weighed) as composition:
        live = composition.draw([PICTURE])[0]
        assert {layer.key for layer in baked.layers} == set(composition.adapted())
        for key in composition.adapted():
            torch.testing.assert_close(
                stored.weight(key), composition.weight(key), rtol=1e-5, atol=1e-6
            )
    drawn = draw(load_base(tmp_path / "baked"), [PICTURE])[0]
    live, drawn, plain = (np.asarray(image, dtype=int) for image in (live, drawn, plain))
    assert np.abs(live - drawn).max() <= 1
    assert np.abs(live - plain).mean() > 5
    assert baked.max_error < 1e-6
    # the order of the adapters changes no byte, and what none of them changes keeps its own
    for file in fp32_folder.rglob("*"):
        inside = file.relative_to(fp32_folder)
        if file.is_dir():
            continue
        assert (tmp_path / "again" / inside).read_bytes() == (
            tmp_path / "baked" / inside
        ).read_bytes()
        if inside.parts[0] not in ("unet", "text_encoder") or file.suffix != ".safetensors":
            assert (tmp_path / "baked" / inside).read_bytes() == file.read_bytes()
            continue
        places = {stored.places[layer.key].name for layer in baked.layers}
        before, after = load_file(file), load_file(tmp_path / "baked" / inside)
        assert before.keys() == after.keys()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == places & before.keys()
        with safe_open(tmp_path / "baked" / inside, "pt") as opened:
            names = [entry["name"] for entry in json.loads(opened.metadata()[BAKED_KEY])]
        assert names == ["dora", "locon", "loha", "lora"]
    assert len(again.layers) == len(baked.layers)


@pytest.mark.parametrize("arch", ["sd15", "sdxl"])
def test_a_single_file_stays_one(arch, tmp_path):
    """fp16, with SDXL's fused query, key and value: rounded once, everything else untouched."""
    maker = sd15_models if arch == "sd15" else other_models
    models = maker.make_models() if arch == "sd15" else other_models.make_sdxl()
    path = sd15_models.save_checkpoint(
        maker.ldm_tensors(models),
        tmp_path / "base.safetensors",
        dtype=torch.float16,
        metadata={"modelspec.title": "Tiny", "modelspec.hash_sha256": "0xold"},
    )
    sd15_models.save_folder(models, tmp_path / "words")
    base = load_base(path, tokenizer=tmp_path / "words" / "tokenizer")
    handle = inject(base.parts, AdapterConfig(rank=2, targets="all", seed=1))
    fill(handle, 5, 0.2)
    handle.save(tmp_path / "one.safetensors", dtype="fp32", arch=arch)
    expected = {
        key: layer.own_weight.float() + 0.5 * layer.adapter("default").delta(layer.own_weight)
        for key, layer in handle.layers.items()
    }
    out = tmp_path / "baked.safetensors"
    baked = bake(path, [(tmp_path / "one.safetensors", Weights(0.5))], out)
    stored = open_stored(out)
    for key, weight in expected.items():
        assert torch.equal(stored.weight(key), weight.half()), key
    assert 1e-5 < baked.max_error < 1e-2
    before, after = load_file(path), load_file(out)
    touched = {stored.places[key].name for key in expected}
    assert {n for n in before if not torch.equal(before[n], after[n])} == touched
    assert list(read_header(out).tensors) == list(read_header(path).tensors)
    assert read_header(out).metadata.keys() == {"modelspec.title", BAKED_KEY}
    if arch == "sdxl":
        assert any(place.third == 1 for place in map(stored.places.get, expected) if place)


def test_weights_that_would_contradict_are_left_out(fp32_folder, four, tmp_path):
    folder = Path(shutil.copytree(fp32_folder, tmp_path / "base"))
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"other")
    (folder / "whole.ckpt").write_bytes(b"other")
    (folder / "card.md").write_text("about")
    baked = bake(folder, [(four[0], Weights())], tmp_path / "out")
    assert baked.left_out == ("unet/diffusion_pytorch_model.fp16.safetensors", "whole.ckpt")
    assert (tmp_path / "out" / "card.md").read_text() == "about"
    assert not (tmp_path / "out" / "whole.ckpt").exists()


def test_nothing_is_left_behind_by_what_cannot_be_baked(fp32_folder, four, tmp_path):
    one = [(four[0], Weights())]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for out, word in (
        (fp32_folder, "the base itself"),
        (fp32_folder / "sub", "the base itself"),
        (tmp_path / "full", "already"),
    ):
        with pytest.raises(InputError, match=word):
            bake(fp32_folder, one, out)
    with pytest.raises(InputError, match="change with the steps"):
        bake(fp32_folder, [(four[0], Weights.parse("steps=0.5:0"))], tmp_path / "out")
    loud = tmp_path / "loud.safetensors"
    save_file({name: 300 * t for name, t in load_file(four[0]).items()}, loud)
    halved = Path(shutil.copytree(fp32_folder, tmp_path / "half"))
    for file in halved.rglob("*.safetensors"):
        save_file({name: t.half() for name, t in load_file(file).items()}, file)
    with pytest.raises(InputError, match="overflows"):
        bake(halved, [(loud, Weights(100))], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "half", "loud.safetensors"]
