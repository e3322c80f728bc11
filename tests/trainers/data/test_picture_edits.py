"""Crops and turns keep format, colours and metadata; masks become what training reads."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from lora_diffusion.errors import InputError
from trainers.data import decode, masks, picture_edits
from trainers.data.picture_edits import cropped, mask_content, mask_name, turned


def _picture(mode: str = "RGB") -> Image.Image:
    """40 x 20: the left half dark, the right half bright, the top row marked."""
    values = np.zeros((20, 40, 3), np.uint8)
    values[:, 20:] = 200
    values[:4, :] = (250, 20, 20)
    return Image.fromarray(values).convert(mode)


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.png", "RGB"), ("a.png", "RGBA"), ("a.png", "P"), ("a.png", "L"), ("a.jpg", "RGB"),
        ("a.jpg", "CMYK"), ("a.webp", "RGB"), ("a.bmp", "RGB"), ("a.tif", "RGB"),
    ],
)  # fmt: skip
def test_a_crop_keeps_the_format(tmp_path: Path, name: str, mode: str) -> None:
    path = tmp_path / name
    _picture(mode).save(path, quality=98)
    kind = Image.open(path).format
    after = _opened(cropped(path, (0.5, 0.2, 1.0, 1.0)))
    assert (after.format, after.mode, after.size) == (kind, mode, (20, 16))
    pixel = after.convert("RGB").getpixel((10, 8))
    assert isinstance(pixel, tuple) and all(abs(value - 200) < 12 for value in pixel)


def test_a_turn_is_a_quarter_and_four_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    _picture().save(path)
    first = _opened(turned(path, "right"))
    assert first.size == (20, 40) and first.getpixel((19, 5)) == (250, 20, 20)
    assert _opened(turned(path, "left")).getpixel((0, 35)) == (250, 20, 20)
    for _ in range(4):
        path.write_bytes(turned(path, "right"))
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(_picture()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_seen_upright_is_what_is_cropped(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[decode.ORIENTATION] = orientation
    exif[0x010E] = "a description"
    _picture().save(path, quality=98, exif=exif)
    seen = decode.load_rgb(path)
    path.write_bytes(cropped(path, (0, 0, 1, 0.5)))
    after = decode.load_rgb(path)
    assert after.size == (seen.width, seen.height // 2)
    expected = np.asarray(seen.crop((0, 0, *after.size)), dtype=int)
    assert np.abs(np.asarray(after, dtype=int) - expected).mean() < 4
    assert Image.open(path).getexif()[0x010E] == "a description"


def test_profile_prompt_and_16_bits_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a cat\nSteps: 4")
    _picture().save(path, icc_profile=profile, pnginfo=text)
    path.write_bytes(turned(path, "left"))
    assert decode.read_prompt(path) == "a cat"
    assert Image.open(path).info["icc_profile"] == profile
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(path)
    after = _opened(cropped(path, (0, 0, 0.5, 0.5)))
    assert after.mode == "I;16" and after.getpixel((0, 0)) == 40_000


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 1), (0.5, 0, 0.4, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.1), (0, 0, 0.1, 1)]
)
def test_no_box_is_refused(tmp_path: Path, box: tuple[float, float, float, float]) -> None:
    _picture().save(tmp_path / "a.png")
    with pytest.raises(InputError, match="box"):
        cropped(tmp_path / "a.png", box)


def test_what_can_not_be_written_back_is_refused(tmp_path: Path) -> None:
    frames = [_picture(), _picture().rotate(180)]
    for name in ("a.gif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(InputError, match=f"{name}: is a .* picture, which can't be changed"):
            turned(tmp_path / name, "left")
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b\.png: is not a picture"):
        turned(tmp_path / "b.png", "left")


def test_a_painted_mask_is_what_training_reads(tmp_path: Path) -> None:
    painted = Image.new("RGBA", (64, 32), (0, 0, 0, 255))
    painted.paste((255, 255, 255, 255), (32, 0, 64, 32))
    out = io.BytesIO()
    painted.save(out, "PNG")
    path = tmp_path / mask_name("a.png")
    path.write_bytes(mask_content(out.getvalue()))
    _picture().save(tmp_path / "a.png")
    read = masks.read_mask(tmp_path / "a.png", path)
    assert read is not None and read.size == (64, 32)
    assert read.getpixel((10, 10)) == 0 and read.getpixel((50, 10)) == 255


def test_a_mask_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def sent(size: tuple[int, int]) -> bytes:
        out = io.BytesIO()
        Image.new("L", size).save(out, "PNG")
        return out.getvalue()

    with pytest.raises(InputError, match="leaves out the whole"):
        mask_content(sent((8, 8)))
    for broken in (b"", sent((8, 8))[:30], sent((picture_edits.MAX_MASK_SIDE_PX + 1, 8))):
        with pytest.raises(InputError, match="did not arrive whole"):
            mask_content(broken)
