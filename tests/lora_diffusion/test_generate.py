"""Drawing: a picture is a function of its own settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.families import load_base
from lora_diffusion.families.schedulers import SAMPLERS
from lora_diffusion.generate import PictureSpec, draw, encode, to_images

PICTURE = PictureSpec("a blue square", seed=3, sampling_steps=2, cfg=3.0, width_px=64, height_px=64)


@pytest.fixture(scope="module")
def base():
    return load_base("bundled:demo_base")


def array(image) -> np.ndarray:
    return np.asarray(image, dtype=int)


def test_a_picture_does_not_depend_on_its_batch(base):
    others = [replace(PICTURE, prompt=f"a star {i}", seed=i) for i in range(4)]
    alone = array(draw(base, [PICTURE])[0])
    among = array(draw(base, [*others[:2], PICTURE, *others[2:]])[2])
    assert np.abs(alone - among).max() <= 1
    assert np.abs(array(draw(base, [replace(PICTURE, seed=4)])[0]) - alone).max() > 20


def test_pictures_are_drawn_one_at_a_time_if_asked(base, monkeypatch):
    rows = []
    monkeypatch.setattr(base, "decode_latents", lambda x: rows.append(len(x)) or x[:, :3])
    draw(base, [PICTURE] * 3, at_once=1)
    draw(base, [PICTURE] * 3)
    assert rows == [1, 1, 1, 3]


def test_mixed_sizes_and_samplers_come_back_in_order(base):
    specs = [
        PICTURE,
        replace(PICTURE, width_px=96),
        replace(PICTURE, sampler="euler"),
        replace(PICTURE, cfg=1.0),
    ]
    done = []
    images = draw(base, specs, on_step=lambda n, total: done.append((n, total)))
    assert [i.size for i in images] == [(64, 64), (96, 64), (64, 64), (64, 64)]
    assert done[-1] == (8, 8)
    assert done == sorted(done)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_are_deterministic(base, sampler):
    spec = replace(PICTURE, sampler=sampler, sampling_steps=4)
    torch.manual_seed(1)
    first = array(draw(base, [spec])[0])
    torch.manual_seed(2)
    assert np.array_equal(first, array(draw(base, [spec])[0]))


def test_long_prompts_and_negatives_are_drawn(base):
    long = replace(PICTURE, prompt="a red circle " * 60, negative="blue")
    assert base.prompt_chunks(long.prompt) > 1
    assert encode(base, [long]).positive.context.shape[1] % 77 == 0
    assert draw(base, [long, PICTURE])[0].size == (64, 64)


def test_prompts_encoded_before_give_the_same_picture(base):
    encoded = encode(base, [PICTURE])
    ahead, now = draw(base, [PICTURE], encoded=encoded)[0], draw(base, [PICTURE])[0]
    assert np.array_equal(array(ahead), array(now))


def test_values_that_are_not_finite_never_become_a_black_picture():
    with pytest.raises(InputError, match="not finite"):
        to_images(torch.full((1, 3, 4, 4), float("nan")))


@pytest.mark.parametrize("side", [0, -8, 60])
def test_sizes_must_be_multiples_of_eight(base, side):
    with pytest.raises(InputError, match=str(side)):
        draw(base, [replace(PICTURE, width_px=side)])
