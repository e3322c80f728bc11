"""Files go out by unguessable ids only, and pictures only as freshly written pixels."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

import ui.gate.shelf
from ui.gate.shelf import Shelf


def _id(url: str | None) -> str:
    assert url is not None
    return url.rpartition("/")[2]


def test_a_picture_comes_back_as_png_without_its_metadata(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "secret prompt")
    path = tmp_path / "a.png"
    Image.new("RGB", (300, 200), "#ff0000").save(path, pnginfo=info)
    shelf = Shelf()
    content = shelf.picture_bytes(_id(shelf.picture(path, 100)))
    assert content is not None and b"secret" not in content
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG" and image.size == (100, 67)


def test_small_pictures_are_not_enlarged_and_rotation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    shelf = Shelf()
    content = shelf.picture_bytes(_id(shelf.picture(path, 100)))
    assert content and Image.open(io.BytesIO(content)).size == (20, 40)


@pytest.mark.parametrize(
    "content",
    [b"", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", b"<html><script>",
     b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"],
)  # fmt: skip
def test_what_is_no_picture_is_not_sent(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    shelf = Shelf()
    assert shelf.picture_bytes(_id(shelf.picture(path, 100))) is None


def test_a_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui.gate.shelf, "MAX_PIXELS", 10_000)
    path = tmp_path / "a.png"
    Image.new("1", (200, 200)).save(path)
    shelf = Shelf()
    assert shelf.picture_bytes(_id(shelf.picture(path, 100))) is None


def test_ids_are_new_each_launch_and_change_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    shelf = Shelf()
    first = shelf.picture(path, 100)
    assert first == shelf.picture(path, 100)
    assert first not in {Shelf().picture(path, 100), shelf.picture(path, 50)}
    os.utime(path, (1, 1))
    assert shelf.picture(path, 100) != first


def test_only_safetensors_files_are_adapters(tmp_path: Path) -> None:
    shelf = Shelf()
    for name in ("a.safetensors", "b.txt", "c.safetensors.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "b.txt")
    offered = shelf.adapter(tmp_path / "a.safetensors")
    assert shelf.adapter_path(_id(offered)) == tmp_path / "a.safetensors"
    for name in ("b.txt", "c.safetensors.txt", "link.safetensors", "missing.safetensors"):
        assert shelf.adapter(tmp_path / name) is None


def test_an_id_serves_its_own_kind_only(tmp_path: Path) -> None:
    picture, adapter = tmp_path / "a.png", tmp_path / "a.safetensors"
    Image.new("RGB", (8, 8)).save(picture)
    adapter.write_bytes(b"x")
    shelf = Shelf()
    assert shelf.adapter_path(_id(shelf.picture(picture, 9))) is None
    assert shelf.picture_bytes(_id(shelf.adapter(adapter))) is None
    assert shelf.picture_bytes("x") is None and shelf.adapter_path("") is None
