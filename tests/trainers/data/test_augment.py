"""Looks at a picture: the crop, mirroring and colours, and what is told of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from lora_diffusion.families.base import PictureSize
from trainers.data import augment, buckets
from trainers.data.augment import AugmentRules, Look, look
from trainers.data.buckets import BucketRules, Fit

RULES = BucketRules.around(64, 16)


def ramp(height: int, width: int) -> Image.Image:
    """A picture whose red says how far right a pixel is, and whose green how far down."""
    down, across = np.mgrid[0:height, 0:width]
    channels = [255 * across / (width - 1), 255 * down / (height - 1), np.full(down.shape, 60.0)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (257, 256), (128, 500), (90, 90)])
def test_what_is_seen_is_what_the_bucket_says(size):
    fit = buckets.fit(size, RULES)
    seen = augment.apply(ramp(*size), look(fit, AugmentRules(), 0, "p", 0, False))
    assert (seen.height, seen.width) == fit.target_px
    values = np.asarray(seen, np.float32)
    # of each side, the share that is seen: the ramp rises so much from the first to the last pixel
    across = float(values[:, -1, 0].mean() - values[:, 0, 0].mean()) / 255
    down = float(values[-1, :, 1].mean() - values[0, :, 1].mean()) / 255
    pixels = [1 - 1 / side for side in fit.target_px]  # between the centres of the outer pixels
    measured = 1 - across / pixels[1] * down / pixels[0]
    assert measured == pytest.approx(fit.crop_loss, abs=0.03)


def test_a_plain_look_is_pillows_centred_fit():
    picture = ramp(300, 200)
    fit = Fit((300, 200), (64, 64))
    seen = augment.apply(picture, look(fit, AugmentRules(), 0, "p", 0, False))
    assert seen.tobytes() == ImageOps.fit(picture, (64, 64), Image.Resampling.LANCZOS).tobytes()
    pixels = augment.to_pixels(seen)
    assert (pixels.shape, pixels.dtype) == ((3, 64, 64), torch.float32)
    assert -1 <= pixels.min() < -0.9
    assert 0.9 < pixels.max() <= 1


def test_looks_are_pure_functions_and_differ_in_everything_asked_for():
    rules = AugmentRules(random_crop=True, colour_jitter=0.2)
    fit = Fit((300, 200), (64, 64))
    looks = [look(fit, rules, 7, "p", number, False) for number in range(50)]
    assert looks == [look(fit, rules, 7, "p", number, False) for number in range(50)]
    assert len(set(looks)) == 50
    assert look(fit, rules, 8, "p", 0, False) != looks[0] != look(fit, rules, 7, "q", 0, False)
    tops = [each.box[1] for each in looks]
    assert min(tops) < 20
    assert max(tops) > 80
    assert {each.box[0] for each in looks} == {0.0}  # no room across
    for name in ("brightness", "contrast", "saturation"):
        factors = [getattr(each, name) for each in looks]
        assert 0.8 <= min(factors) < 0.85
        assert 1.15 < max(factors) <= 1.2


def test_mirroring_and_colours_change_the_pixels_and_nothing_else():
    picture, fit = ramp(64, 64), Fit((64, 64), (64, 64))
    plain = np.asarray(augment.apply(picture, Look(fit.box(), (64, 64))))
    assert np.array_equal(plain, np.asarray(picture))
    mirrored = np.asarray(augment.apply(picture, Look(fit.box(), (64, 64), flipped=True)))
    assert np.array_equal(mirrored, plain[:, ::-1])
    for name in ("brightness", "contrast", "saturation"):
        dull = np.asarray(augment.apply(picture, Look(fit.box(), (64, 64), **{name: 0.5})))
        assert not np.array_equal(dull, plain)


@pytest.mark.parametrize(("flip", "mirrors"), [(0, [False]), (0.3, [False, True]), (1, [True])])
def test_visits_are_mirrored_by_their_chance(flip, mirrors):
    rules = AugmentRules(flip=flip)
    visits = [augment.is_mirrored(rules, 3, place) for place in range(2000)]
    assert sum(visits) / 2000 == pytest.approx(flip, abs=0.04)
    assert sorted(set(visits)) == list(rules.mirrors) == mirrors


@pytest.mark.parametrize(
    ("source", "target", "crop"),
    [
        ((512, 512), (512, 512), (0, 0)),
        ((600, 300), (1024, 1024), (512, 0)),
        ((300, 600), (150, 150), (0, 75)),
        ((1000, 1333), (1024, 1024), (0, 170)),
        ((2000, 3000), (832, 1216), (0, 16)),
    ],
)
def test_sdxl_is_told_the_crop_in_the_scaled_picture(source, target, crop):
    fit = Fit(source, target)
    plain = look(fit, AugmentRules(), 0, "p", 0, False)
    assert augment.told_size(fit, plain) == PictureSize(source, target, crop)


@given(st.floats(0, 1), st.integers(0, 2**30))
def test_a_mirrored_crop_is_told_from_the_side_that_is_now_left(across, number):
    fit = Fit((100, 300), (64, 64))
    box = fit.box(across=across)
    left = augment.told_size(fit, Look(box, (64, 64))).crop_px[1]
    right = augment.told_size(fit, Look(box, (64, 64), flipped=True)).crop_px[1]
    assert left + right == pytest.approx(128, abs=1)  # the scaled picture is 192 wide
