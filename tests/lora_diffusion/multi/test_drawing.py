"""Pictures with adapters of their own: drawn together they are what they are alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lora_diffusion.composition.live import compose
from lora_diffusion.composition.weights import Weights
from lora_diffusion.families import load_base
from lora_diffusion.generate import PictureSpec, encode
from lora_diffusion.injection import AdapterConfig, inject
from lora_diffusion.multi.batch import PerSample
from lora_diffusion.multi.drawing import draw_mixed, encode_mixed
from lora_diffusion.multi.pages import AdapterPages
from tests.conftest import fill

PICTURE = PictureSpec("a square", "dark", seed=3, sampling_steps=2, cfg=3.0, width_px=64,
                      height_px=64)  # fmt: skip
CONFIGS = {
    "wide": AdapterConfig(rank=6, targets="all", text_targets="all"),
    "dora": AdapterConfig(kind="dora", rank=2),
    "loha": AdapterConfig(kind="loha", rank=2, targets="attn+ff", text_targets="none"),
}


@pytest.fixture(scope="module")
def base():
    return load_base("bundled:demo_base")


@pytest.fixture(scope="module")
def paths(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, config) in enumerate(CONFIGS.items()):
        parts = base.parts if config.text_targets != "none" else {"unet": base.unet}
        handle = inject(parts, config)
        fill(handle, seed, spread=0.05)
        handle.save(folder / f"{name}.safetensors", dtype="fp32")
        handle.remove()
    return {name: folder / f"{name}.safetensors" for name in CONFIGS}


@pytest.fixture
def per_sample(base, paths) -> PerSample:
    pages = AdapterPages(base.parts, device_bytes=1 << 30, ram_bytes=0)
    for name, path in paths.items():
        pages.add(name, path)
    return PerSample(base.parts, pages)


MIXES = [
    [("wide", Weights(1.2))],
    [("dora", Weights.parse("0.7,text=2")), ("loha", Weights(1.0))],
    [],
    [("wide", Weights(-0.4)), ("dora", Weights(0.5))],
    [("wide", Weights(0.8))],
    [("wide", Weights.parse("1,steps=0.5:0"))],
]
PICTURES = [replace(PICTURE, prompt=f"a square {i}", seed=i) for i in range(len(MIXES))]


def alone(base, paths, picture, mix):
    with compose(base, [(paths[name], weights) for name, weights in mix]) as composition:
        return np.asarray(composition.draw([picture])[0], dtype=int)


@pytest.mark.parametrize("cfg", [3.0, 1.0], ids=["guided", "plain"])
def test_pictures_in_one_batch_are_what_they_are_alone(base, paths, per_sample, cfg):
    pictures = [replace(picture, cfg=cfg) for picture in PICTURES]
    told: list[tuple[int, int]] = []
    images = draw_mixed(
        base, per_sample, pictures, MIXES, on_step=lambda n, of: told.append((n, of)), at_once=6
    )
    arrays = [np.asarray(image, dtype=int) for image in images]
    for array, picture, mix in zip(arrays, pictures, MIXES, strict=True):
        assert np.abs(array - alone(base, paths, picture, mix)).max() <= 1
    plain = alone(base, paths, pictures[0], [])
    assert np.abs(arrays[0] - plain).max() > 20
    assert told == sorted(told) and told[-1] == (12, 12)
    small = draw_mixed(base, per_sample, pictures, MIXES, at_once=2)
    for array, image in zip(arrays, small, strict=True):
        assert np.abs(array - np.asarray(image, dtype=int)).max() <= 1


def test_prompts_of_any_length_read_as_their_own_adapters_have_it(base, paths, per_sample):
    pictures = [*PICTURES[:3], replace(PICTURE, prompt="many words " * 60, negative="few")]
    mixes = [MIXES[0], [], MIXES[1], MIXES[0]]
    found = encode_mixed(base, per_sample, pictures, mixes)
    assert found.positive.context.shape[1] > 77
    for row, mix in enumerate(mixes):
        with compose(base, [(paths[name], weights) for name, weights in mix]):
            # the longest beside it, so that the chunks are as many
            wanted = encode(base, [pictures[row], pictures[3]])
        for have, want in ((found.positive, wanted.positive), (found.negative, wanted.negative)):
            torch.testing.assert_close(have.context[row], want.context[0], rtol=0, atol=1e-5)
    plain = encode(base, [pictures[0], pictures[3]])
    assert (found.negative.context[0] - plain.negative.context[0]).abs().max() > 0.01
