"""Masks: read from a file or from alpha, and cropped as the picture is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lora_diffusion.errors import InputError
from trainers.data import augment, masks
from trainers.data.augment import AugmentRules, Look
from trainers.data.buckets import Fit


def half(height: int, width: int) -> Image.Image:
    """White on the left half."""
    grey = np.zeros((height, width), np.uint8)
    grey[:, : width // 2] = 255
    return Image.fromarray(grey)


def test_the_file_wins_over_alpha_and_neither_is_none(tmp_path):
    plain, clear, mask = (tmp_path / name for name in ("a.png", "b.png", "m.png"))
    Image.new("RGB", (8, 4), "red").save(plain)
    rgba = Image.new("RGBA", (8, 4), "red")
    rgba.putalpha(half(4, 8))
    rgba.save(clear)
    Image.new("RGB", (8, 4), "white").save(mask)
    assert masks.read_mask(plain, None) is None
    assert np.array_equal(np.asarray(masks.read_mask(clear, None)), np.asarray(half(4, 8)))
    assert np.asarray(masks.read_mask(clear, mask)).min() == 255


def test_masks_are_turned_by_their_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half(4, 8).save(tmp_path / "m.png", exif=exif)
    seen = np.asarray(masks.read_mask(tmp_path / "a.png", tmp_path / "m.png"))
    assert np.array_equal(seen, np.asarray(half(4, 8))[::-1, ::-1])


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_bad_masks_are_named(tmp_path, content):
    (tmp_path / "m.png").write_bytes(content)
    with pytest.raises(InputError, match=r"m\.png.*mask"):
        masks.read_mask(tmp_path / "a.png", tmp_path / "m.png")
    Image.new("L", (8, 8), 0).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m\.png.*black all over"):
        masks.read_mask(tmp_path / "a.png", tmp_path / "m.png")


@pytest.mark.parametrize("mask_size", [(96, 160), (48, 80), (300, 500)])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_mask_follows_its_picture_into_the_crop(mask_size, flipped):
    """The picture is white where the mask is; what is seen of both has to agree."""
    picture = half(96, 160).convert("RGB")
    fit = Fit((96, 160), (64, 64))
    for number in range(5):
        look = augment.look(fit, AugmentRules(random_crop=True), 0, "p", number, flipped)
        seen = np.asarray(augment.apply(picture, look), np.float32)[..., 0]
        seen = seen.reshape(8, 8, 8, 8).mean(axis=(1, 3))
        mask = masks.apply(half(*mask_size), fit.source_px, look, factor=8)
        assert mask.shape == (1, 8, 8)
        assert np.abs(mask[0].float().numpy() - seen).max() < 25


def test_no_mask_is_white():
    mask = masks.apply(None, (96, 160), Look((0, 0, 96, 96), (64, 32)), factor=8)
    assert mask.shape == (1, 8, 4)
    assert mask.min() == 255
