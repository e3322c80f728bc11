"""The cache: what is found again, what is not, and what a kill or a second process does to it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_diffusion import bundled
from lora_diffusion.errors import InputError
from lora_diffusion.families import load_base
from trainers.data import dataset as dataset_module
from trainers.data import prepare, scan
from trainers.data.cache import LatentKey, MemoryStore, PromptKey, ShardStore, digest
from trainers.data.prompts import KeptPrompts
from trainers.layering import build_spec

LATENT = LatentKey(
    "p", "v", "float32", "", (0.0, 0.0, 8.0, 8.0), 64, 64, False, 1.0, 1.0, 1.0, "1", "lanczos"
)
PROMPT = PromptKey("a dog", "e", "float32", 1, 1)


def ignore(done: int, total: int) -> None:
    """Progress that nobody looks at."""


def changed(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value[:3], 9.0)
    return f"{value}x" if isinstance(value, str) else value + 1


@pytest.mark.parametrize("key", [LATENT, PROMPT])
def test_each_input_is_in_the_key(key):
    digests = {digest(replace(key, **{f.name: changed(getattr(key, f.name))})) for f in fields(key)}
    assert len({*digests, digest(key)}) == len(fields(key)) + 1
    assert digest(replace(key)) == digest(key)


class Maker:
    """Makes records of numbers, and counts."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, jobs):
        self.made += jobs
        return [{"mean": torch.full((1, 2), float(job)), "b": torch.ones(1)} for job in jobs]


WANTED = {f"key{number}": number for number in range(10)}


def assert_all_there(store) -> None:
    for key, number in WANTED.items():
        assert torch.equal(store.read(key)["mean"], torch.full((1, 2), float(number)))


@pytest.mark.parametrize("make_store", [MemoryStore, None])
def test_what_is_there_is_not_made_again(tmp_path, make_store):
    store = make_store() if make_store else ShardStore(tmp_path, shard_records=4)
    maker, told = Maker(), []
    store.fill(WANTED, maker, lambda done, total: told.append((done, total)))
    assert sorted(maker.made) == list(range(10))
    assert (told[0], told[-1]) == ((0, 10), (10, 10))
    store.fill({**WANTED, "more": 10}, maker, ignore)
    assert maker.made.count(10) == 1
    assert len(maker.made) == 11
    assert_all_there(store)
    with pytest.raises(KeyError):
        store.read("never asked for")


@pytest.mark.parametrize("index", ["kept", "lost", "broken", "of another version"])
def test_another_run_finds_the_shards_whatever_became_of_the_index(tmp_path, index):
    ShardStore(tmp_path, shard_records=4).fill(WANTED, Maker(), ignore)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    path = tmp_path / "index.json"
    if index == "lost":
        path.unlink()
    elif index != "kept":
        path.write_text('{"format": 99}' if "version" in index else "{", encoding="utf-8")
    again, maker = ShardStore(tmp_path, shard_records=3), Maker()
    again.fill(WANTED, maker, ignore)
    assert maker.made == []
    assert_all_there(again)


def test_a_damaged_shard_is_made_again_and_no_other(tmp_path):
    ShardStore(tmp_path, shard_records=4).fill(WANTED, Maker(), ignore)
    damaged = sorted(tmp_path.glob("*.safetensors"))[0]
    lost = {int(key[3:]) for key in ShardStore(tmp_path)._keys_of[damaged.name]}
    damaged.write_bytes(damaged.read_bytes()[:-4])
    again, maker = ShardStore(tmp_path, shard_records=4), Maker()
    again.fill(WANTED, maker, ignore)
    assert set(maker.made) == lost
    assert_all_there(again)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cache can't be used.*data\.cache_folder"):
        ShardStore(tmp_path / "file")


SLOW = """
import sys, time
from pathlib import Path
import torch
from trainers.data.cache import ShardStore
folder, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def make(jobs):
    time.sleep(seconds)
    with log.open("a") as file:
        file.write("".join(f"{job}\\n" for job in jobs))
    return [{"mean": torch.full((1, 2), float(job))} for job in jobs]
ShardStore(folder, 4).fill({f"key{n}": n for n in range(40)}, make, lambda d, t: None)
"""


def fill_slowly(folder: Path, log: Path, seconds: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SLOW, str(folder), str(log), str(seconds)])


def made_in(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def test_a_killed_run_goes_on_without_redoing_finished_shards(tmp_path):
    folder, log = tmp_path / "cache", tmp_path / "log"
    process = fill_slowly(folder, log, 0.3)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(folder.glob("*.safetensors"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {int(key[3:]) for key in ShardStore(folder)._shard_of}
    assert 12 <= len(finished) < 40
    log.unlink(missing_ok=True)
    assert fill_slowly(folder, log, 0).wait(120) == 0
    assert not finished & set(made_in(log))
    assert sorted([*finished, *made_in(log)]) == list(range(40))


def test_two_processes_share_the_work(tmp_path):
    folder, log = tmp_path / "cache", tmp_path / "log"
    both = [fill_slowly(folder, log, 0.2) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert sorted(made_in(log)) == list(range(40))  # none twice
    store = ShardStore(folder)
    assert store.missing([f"key{n}" for n in range(40)]) == []


@pytest.fixture(scope="module")
def base():
    return load_base(bundled.resolve("bundled:demo_base"))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for name, (height, width) in {"a.png": (100, 150), "b.png": (60, 60)}.items():
        pixels = noise.integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (tmp_path / "masks").mkdir()
    Image.new("L", (150, 100), 255).save(tmp_path / "masks" / "a.png")
    return folder


def dataset(base, pictures: Path, seed: int = 0, **data):
    data = {
        "folder": str(pictures), "trigger": "sks", "cache": "disk",
        "cache_folder": str(pictures.parent / "cache"), **data,
    }  # fmt: skip
    spec = build_spec([{"data": data, "schedule": {"seed": seed}, "optim": {"lr_text": 0.0}}])
    return prepare.make_dataset(base, spec, scan.find(spec.data), [])


def keys(*arguments, **data) -> set[str]:
    return set(dataset(*arguments, **data).wanted())


def masked(pictures: Path) -> dict:
    subset = {"folder": str(pictures), "mask_folder": str(pictures.parent / "masks")}
    return {"subsets": [subset], "masked_loss": True}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"resolution_px": 96}),
        ({}, {"buckets": False}),
        ({}, {"bucket_step_px": 8}),
        ({}, {"bucket_max_px": 64}),
        ({}, {"upscale": True}),
        ({}, {"flip": 1.0}),
        ({}, {"random_crop": True}),
        ({}, {"colour_jitter": 0.1}),
        ({"colour_jitter": 0.1}, {"colour_jitter": 0.2}),
        ({}, {"masked_loss": True}),
    ],
)
def test_changed_preprocessing_misses(base, pictures, before, after):
    assert keys(base, pictures, **before)
    assert not keys(base, pictures, **before) >= keys(base, pictures, **after)


def test_changed_content_misses_and_touching_or_renaming_hits(base, pictures, monkeypatch):
    plain = keys(base, pictures)
    with_mask = keys(base, pictures, **masked(pictures))
    crops = keys(base, pictures, random_crop=True)
    again = keys(base, pictures, 1, random_crop=True)
    assert len(again & crops) == 1  # b.png fills its bucket, so there is but one crop of it
    assert len(again | crops) > 10
    os.utime(pictures / "a.png", (1, 1))
    (pictures / "b.png").rename(pictures / "c.png")
    (pictures / "a.txt").write_text("other words", encoding="utf-8")
    assert keys(base, pictures) == plain
    Image.new("L", (150, 100), 200).save(pictures.parent / "masks" / "a.png")
    assert len(keys(base, pictures, **masked(pictures)) & with_mask) == 1  # the one without
    with monkeypatch.context() as patch:
        patch.setattr(dataset_module, "DECODING", "next")
        assert keys(base, pictures).isdisjoint(plain)
    with (pictures / "c.png").open("ab") as file:
        file.write(b"\0")
    assert len(keys(base, pictures) & plain) == 1


def test_changed_weights_or_formats_of_the_vae_miss(base, pictures, tmp_path):
    plain = keys(base, pictures)
    folder = tmp_path / "base"
    shutil.copytree(base.location, folder)
    assert keys(load_base(folder), pictures) == plain  # another place, the same weights
    assert keys(load_base(folder, dtype=torch.bfloat16), pictures).isdisjoint(plain)
    weights = next((folder / "vae").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert keys(load_base(folder), pictures).isdisjoint(plain)


def test_the_second_run_encodes_nothing_loads_neither_and_shows_the_same(base, pictures):
    prompts = ["sks", "a dog", ""]
    settings = {"random_crop": True, "flip": 0.5, "cache_variants": 2}

    def open_and_fill():
        """As a run does it: the base's parts load when they are needed."""
        put_off = ("vae", "text_encoder")
        fresh = load_base(bundled.resolve("bundled:demo_base"), put_off=put_off)
        assert fresh.loaded == {"unet"}
        made = dataset(fresh, pictures, **settings)
        made.fill(ignore)
        spec = build_spec(
            [{"data": {"cache": "disk", "cache_folder": str(pictures.parent / "cache")}}]
        )
        return fresh, made, prepare.keep_prompts(fresh, spec, prompts, ignore)

    first_base, first, first_prompts = open_and_fill()
    assert first_base.loaded == {"unet", "vae", "text_encoder"}
    second_base, second, second_prompts = open_and_fill()
    assert second_base.loaded == {"unet"}
    memory = dataset(base, pictures, **settings, cache="memory", cache_folder=None)
    memory.fill(ignore)
    order = prepare.make_order(
        first.members(is_class=False), [], class_fraction=0.5, seed=0, batch_size=2,
        whole_epochs=True,
    )  # fmt: skip
    for number in range(12):
        rows = [each.show(order.batch(number)) for each in (first, second, memory)]
        for one, other, third in zip(*rows, strict=True):
            assert torch.equal(one.moments.mean, other.moments.mean)
            assert torch.equal(one.moments.logvar, other.moments.logvar)
            assert torch.equal(one.moments.mean, third.moments.mean)
            assert one.size == other.size == third.size
    in_memory = KeptPrompts(base, prompts, MemoryStore(), ignore)
    for prompt in prompts:
        assert torch.equal(first_prompts[prompt].context, second_prompts[prompt].context)
        assert torch.equal(in_memory[prompt].context, second_prompts[prompt].context)
    # what was put off is as good as ever where it is needed after all
    latents = torch.randn(1, 4, 32, 32)
    assert torch.equal(second_base.decode_latents(latents), base.decode_latents(latents))
    assert second_base.loaded == {"unet", "vae"}
