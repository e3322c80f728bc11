"""Buckets: which there are, which one a picture goes into, and what that crops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from lora_diffusion.errors import InputError
from trainers.data import buckets
from trainers.data.buckets import BucketRules, Fit

SIDES = st.integers(8, 3000)
RULES = st.builds(
    BucketRules.around,
    st.sampled_from([64, 96, 256, 512, 768, 1000, 1024]),
    st.sampled_from([8, 16, 32, 64]),
    upscale=st.booleans(),
)


@given(RULES)
def test_buckets_keep_every_rule_and_none_could_be_larger(rules):
    sizes = buckets.buckets(rules)
    assert (max(h for h, _ in sizes), max(w for _, w in sizes)) == (
        max(w for _, w in sizes), max(h for h, _ in sizes)
    )  # fmt: skip
    for height, width in sizes:
        assert height % rules.step_px == width % rules.step_px == 0
        assert rules.min_px <= min(height, width) <= max(height, width) <= rules.max_px
        assert height * width <= rules.side_px**2
        if width + rules.step_px <= rules.max_px:
            assert height * (width + rules.step_px) > rules.side_px**2


@given(RULES, SIDES, SIDES)
def test_a_picture_goes_where_least_of_it_is_cut(rules, height, width):
    found = buckets.fit((height, width), rules)
    if found is None:
        assert not rules.upscale
        assert min(height, width) < rules.min_px
        return
    assert rules.upscale or found.scale <= 1
    assert found.target_px[0] * found.target_px[1] <= rules.side_px**2
    if rules.upscale or found.target_px in buckets.buckets(rules):
        for size in buckets.buckets(rules):
            other = Fit((height, width), size)
            assert other.crop_loss >= found.crop_loss or (other.scale > 1 and not rules.upscale)


@given(RULES, SIDES, SIDES, st.floats(0, 1), st.floats(0, 1))
def test_the_reported_loss_is_what_the_box_leaves_out(rules, height, width, across, down):
    found = buckets.fit((height, width), rules)
    if found is None:
        return
    left, top, right, bottom = found.box(across, down)
    assert -1e-6 <= left < right <= width + 1e-6
    assert -1e-6 <= top < bottom <= height + 1e-6
    kept = (right - left) * (bottom - top) / (height * width)
    assert found.crop_loss == pytest.approx(1 - kept, abs=1e-9)
    assert min(left + width - right, top + height - bottom) == pytest.approx(0, abs=1e-6)
    target = found.target_px
    assert (right - left) * found.scale == pytest.approx(target[1])
    assert (bottom - top) * found.scale == pytest.approx(target[0])


def test_known_buckets_of_sdxl():
    sizes = buckets.buckets(BucketRules.around(1024, 64))
    assert {(1024, 1024), (832, 1216), (896, 1152), (1216, 832), (512, 2048)} <= set(sizes)
    assert buckets.fit((2000, 3000), BucketRules.around(1024, 64)).target_px == (832, 1216)


@pytest.mark.parametrize(
    ("size", "upscale", "expected"),
    [
        ((300, 300), False, (256, 256)),  # never enlarged …
        ((300, 300), True, (512, 512)),  # … unless asked
        ((300, 4000), False, (256, 1024)),
        ((512, 512), False, (512, 512)),
        ((200, 900), False, None),
        ((200, 900), True, (256, 1024)),
    ],
)
def test_small_pictures(size, upscale, expected):
    found = buckets.fit(size, BucketRules.around(512, 64, upscale=upscale))
    assert (found and found.target_px) == expected


def test_the_square_is_what_pillow_fits():
    noise = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
    for picture in (Image.fromarray(noise), Image.fromarray(noise).rotate(90, expand=True)):
        rules = BucketRules.around(32, 32, square=True)
        found = buckets.fit((picture.height, picture.width), rules)
        ours = picture.resize((32, 32), Image.Resampling.LANCZOS, box=found.box())
        theirs = ImageOps.fit(picture, (32, 32), Image.Resampling.LANCZOS)
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_no_bucket_at_all_is_refused_with_the_settings():
    with pytest.raises(InputError, match=r"data\.resolution_px"):
        BucketRules.around(32, 64)
    with pytest.raises(InputError, match=r"data\.bucket_min_px"):
        BucketRules.around(512, 64, min_px=1024)


def test_counting_gives_pictures_visits_and_mean_loss():
    rules = BucketRules.around(512, 64)
    fits = [buckets.fit(size, rules) for size in ((512, 512), (600, 600), (500, 1000))]
    square, wide = buckets.count(fits, [1, 4, 3])
    assert (square.size_px, square.pictures, square.visits, square.crop_loss) == (
        (512, 512), 2, 5, 0.0
    )  # fmt: skip
    assert (wide.pictures, wide.visits) == (1, 3)
    assert wide.crop_loss == pytest.approx(fits[2].crop_loss)


@given(st.integers(1, 500), st.integers(1, 64))
def test_visits_are_split_into_few_even_batches(visits, batch_size):
    sizes = buckets.split_evenly(visits, batch_size)
    assert sum(sizes) == visits
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-visits // batch_size)
