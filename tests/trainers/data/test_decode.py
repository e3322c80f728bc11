"""Decoding: every mode becomes upright 8-bit RGB, and what can't be decoded is named."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from lora_diffusion.errors import InputError
from trainers.data.decode import load_rgb, read_size

SOURCE = np.random.default_rng(0)

# EXIF orientation -> what makes the stored pixels upright: CIPA DC-008, section 4.6.4.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def rgb(path) -> np.ndarray:
    return np.asarray(load_rgb(path)).astype(int)


def noise(height: int, width: int, channels: int) -> np.ndarray:
    return SOURCE.integers(0, 256, (height, width, channels), np.uint8)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    blend = (colour.astype(float) * alpha + 255.0 * (255 - alpha)) / 255
    return np.floor(blend + 0.5).astype(int)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation, format):
    path = tmp_path / f"a.{format}"
    stored = Image.fromarray(noise(5, 7, 3))
    stored.save(path, format)
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"))  # as the format keeps them
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, format, exif=exif)
    expected = UPRIGHT[orientation](pixels)
    assert np.array_equal(rgb(path), expected)
    assert read_size(path) == expected.shape[:2]


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, ending):
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    expected = np.floor(values / 257 + 0.5).astype(int)
    assert np.array_equal(rgb(tmp_path / f"a.{ending}"), expected[..., None].repeat(3, -1))


def test_cmyk_is_ink_on_white(tmp_path):
    inks = noise(16, 16, 4)
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")
    light = 255.0 - inks
    expected = np.floor(light[..., :3] * light[..., 3:] / 255 + 0.5).astype(int)
    assert np.array_equal(rgb(tmp_path / "a.tif"), expected)


def test_a_cmyk_jpeg_is_not_taken_inside_out(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(rgb(tmp_path / "a.jpg") - (255, 0, 0)).max() <= 3


def test_palettes_are_looked_up(tmp_path):
    palette, places = noise(256, 3, 1)[..., 0], noise(16, 16, 1)[..., 0]
    picture = Image.fromarray(places, "P")
    picture.putpalette(palette.flatten().tolist())
    for name in ("a.png", "a.gif", "a.bmp"):
        picture.save(tmp_path / name)
        assert np.array_equal(rgb(tmp_path / name), palette[places]), name


def test_transparency_is_laid_on_white(tmp_path):
    pixels = noise(32, 32, 4)
    expected = over_white(pixels[..., :3], pixels[..., 3:])
    for name in ("a.png", "a.tif"):
        Image.fromarray(pixels, "RGBA").save(tmp_path / name)
        assert np.array_equal(rgb(tmp_path / name), expected), name
    grey = noise(32, 32, 2)
    Image.fromarray(grey, "LA").save(tmp_path / "la.png")
    expected = over_white(grey[..., :1].repeat(3, -1), grey[..., 1:])
    assert np.array_equal(rgb(tmp_path / "la.png"), expected)


def test_transparent_entries_of_palettes_are_laid_on_white(tmp_path):
    palette, places = noise(256, 3, 1)[..., 0], noise(16, 16, 1)[..., 0]
    alpha = noise(256, 1, 1)[..., 0]
    picture = Image.fromarray(places, "P")
    picture.putpalette(palette.flatten().tolist())
    picture.save(tmp_path / "a.png", transparency=alpha.tobytes())
    expected = over_white(palette[places], alpha[places])
    assert np.array_equal(rgb(tmp_path / "a.png"), expected)


def test_what_lies_under_the_transparency_is_not_seen(tmp_path):
    """Pixels that are wholly transparent are white, whatever colour they hide."""
    pixels = noise(8, 8, 4)
    pixels[..., 3] = 0
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.webp", lossless=True, exact=True)
    assert (rgb(tmp_path / "a.webp") == 255).all()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_three_equal_channels(tmp_path, mode):
    picture = Image.fromarray(noise(8, 8, 1)[..., 0]).convert(mode)
    picture.save(tmp_path / "a.png")
    expected = np.asarray(picture.convert("L"))[..., None].repeat(3, -1)
    assert np.array_equal(rgb(tmp_path / "a.png"), expected)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    first, second = Image.new("RGB", (8, 8), "#ff0000"), Image.new("RGB", (8, 8), "#0000ff")
    for name in ("a.gif", "a.png", "a.tif"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        assert rgb(tmp_path / name)[0, 0].tolist() == [255, 0, 0]


def icc_profile(space: bytes, curves: dict[bytes, float], columns: dict[bytes, tuple]) -> bytes:
    """An ICC 2.4 display profile: tone curves that are a gamma, and the primaries' XYZ."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(0.9642, 1.0, 0.8249)}
    for name, xyz in columns.items():
        tags[name] = b"XYZ \0\0\0\0" + _fixed(*xyz)
    for name, gamma in curves.items():
        tags[name] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI", start + len(body), b"none", 0x02400000)
    head += b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    return head + _fixed(0.9642, 1.0, 0.8249) + bytes(128 - len(head) - 12) + table + body


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(v * 65_536) for v in values))


# sRGB's primaries adapted to D50, from the sRGB profile of the ICC; here red and blue are swapped.
SWAPPED = {
    b"bXYZ": (0.4360, 0.2225, 0.0139), b"gXYZ": (0.3851, 0.7169, 0.0971),
    b"rXYZ": (0.1431, 0.0606, 0.7141),
}  # fmt: skip


def test_a_profile_is_converted_to_srgb(tmp_path):
    profile = icc_profile(b"RGB ", dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), 2.2), SWAPPED)
    pixels = noise(16, 16, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    linear = (pixels[..., ::-1] / 255) ** 2.2
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    difference = np.abs(rgb(tmp_path / "a.png") - srgb * 255)
    assert difference.max() < 6  # primaries are rounded, and near black the curves are steep
    assert difference.mean() < 1


def test_a_profile_and_transparency_go_together(tmp_path):
    profile = icc_profile(b"RGB ", dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), 2.2), SWAPPED)
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    picture.putpixel((0, 0), (255, 0, 0, 0))
    picture.save(tmp_path / "a.png", icc_profile=profile)
    seen = rgb(tmp_path / "a.png")
    assert seen[0, 0].tolist() == [255, 255, 255]
    assert np.abs(seen[4, 4] - (0, 0, 255)).max() < 6


@pytest.mark.parametrize(
    "profile", [b"nonsense", icc_profile(b"GRAY", {b"kTRC": 1.0}, {}), b"\0" * 200]
)
def test_a_profile_that_does_not_fit_is_left_aside(tmp_path, profile):
    pixels = noise(8, 8, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(rgb(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pictures_of_unknown_range_are_refused(tmp_path, mode):
    Image.new(mode, (8, 8)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: has 32 bits a channel"):
        load_rgb(tmp_path / "a.tif")


def test_only_the_listed_formats_are_tried(tmp_path):
    """PostScript is a program, and Pillow runs it."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with pytest.raises(InputError, match=r"a\.png: is not a picture"):
        load_rgb(tmp_path / "a.png")


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
    with pytest.raises(InputError, match=r"bomb\.png: is over the limit of 100 megapixels"):
        load_rgb(tmp_path / "bomb.png")
    Image.new("1", (2_000, 1_000)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="limit of 1 megapixels"):
        load_rgb(tmp_path / "a.png", max_megapixels=1)
    assert read_size(tmp_path / "a.png") == (1_000, 2_000)
