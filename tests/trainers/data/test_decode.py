"""Decoding: every mode becomes upright 8-bit RGB, and what can't be decoded is named."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lora_diffusion.errors import InputError
from trainers.data.decode import load_rgb


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[0, 0] = (255, 0, 0)
    upright[0, 5] = (0, 255, 0)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(load_rgb(tmp_path / "a.png")), upright)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    grey = np.asarray(load_rgb(tmp_path / "a.png"))[..., 0]
    assert abs(grey.mean() - 127.5) < 1
    assert (grey.min(), grey.max()) == (0, 255)


def test_transparency_is_laid_on_white(tmp_path):
    picture = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    picture.putpixel((0, 0), (10, 20, 30, 255))
    picture.save(tmp_path / "a.png")
    rgb = load_rgb(tmp_path / "a.png")
    assert rgb.getpixel((0, 0)) == (10, 20, 30)
    assert rgb.getpixel((3, 3)) == (255, 255, 255)
    palette = picture.convert("P")
    palette.info["transparency"] = palette.getpixel((3, 3))
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((3, 3)))
    assert load_rgb(tmp_path / "p.png").getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.png" if mode in "1LP" else "a.jpg")
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(path)
    rgb = load_rgb(path)
    assert rgb.mode == "RGB"
    assert min(rgb.getpixel((4, 4))) > 245


def test_damaged_pictures_are_named(tmp_path):
    buffer = io.BytesIO()
    source = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(source).save(buffer, "PNG")
    good = buffer.getvalue()
    for name, content in (
        ("cut.png", good[: len(good) // 2]),
        ("empty.png", b""),
        ("text.png", b"hello"),
        ("noise.png", good[:40] + bytes(len(good) - 40)),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_rgb(tmp_path / name)


def test_a_bomb_is_refused_from_its_header(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png.*megapixels"):
        load_rgb(tmp_path / "bomb.png")
