"""Small copies: as training sees the picture, kept on disk within bounds, never needed."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from trainers.data import decode
from ui.gate import thumbnails
from ui.gate.shelf import Shelf
from ui.gate.thumbnails import Thumbnails


def _picture(path: Path, colour: str = "#884422", size: tuple[int, int] = (400, 200)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def _kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_copy_is_made_once_and_again_when_the_picture_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = _picture(tmp_path / "a.png")
    cache = Thumbnails(tmp_path / "cache")
    first = cache.get(picture, 100)
    assert first is not None and Image.open(io.BytesIO(first)).size == (100, 50)
    monkeypatch.setattr(thumbnails, "_made", lambda *given: pytest.fail("made anew"))
    assert Thumbnails(tmp_path / "cache").get(picture, 100) == first
    monkeypatch.undo()
    _picture(picture, "#2244cc", (400, 400))
    os.utime(picture, ns=(1, 1))
    second = cache.get(picture, 100)
    assert second is not None and Image.open(io.BytesIO(second)).size == (100, 100)
    assert len(_kept(tmp_path / "cache")) == 2


def test_it_is_upright_and_holds_no_metadata(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6
    exif[0x010E] = "a secret place"
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.jpg", exif=exif)
    made = Thumbnails(tmp_path / "cache").get(tmp_path / "a.jpg", 100)
    assert made is not None and b"secret" not in made
    assert Image.open(io.BytesIO(made)).size == (20, 40)


def test_the_cache_is_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    cache = Thumbnails(tmp_path / "cache", max_bytes=6_000)
    for number in range(12):
        assert cache.get(_picture(tmp_path / f"{number}.png", f"#{number:02x}4422"), 200)
    ages = {path: number for number, path in enumerate(_kept(tmp_path / "cache"))}
    for path, age in ages.items():
        os.utime(path, (age, age))
    cache.trim()
    left = _kept(tmp_path / "cache")
    assert 0 < sum(path.stat().st_size for path in left) <= 6_000
    assert left == sorted(ages, key=lambda path: ages[path])[-len(left) :]


def test_what_is_no_picture_has_no_copy_and_a_cache_is_not_needed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "cache").write_text("a file where the folder would be")
    cache = Thumbnails(tmp_path / "cache")
    assert cache.get(tmp_path / "a.png", 100) is None
    assert cache.get(tmp_path / "gone.png", 100) is None
    assert cache.get(_picture(tmp_path / "b.png"), 100) is not None


def test_the_shelf_gives_it_by_an_id(tmp_path: Path) -> None:
    shelf = Shelf(Thumbnails(tmp_path / "cache"))
    address = shelf.thumbnail(_picture(tmp_path / "a.png"), 100)
    assert address is not None and str(tmp_path) not in address
    content = shelf.picture_bytes(address.rpartition("/")[2])
    assert content is not None and content.startswith(b"\xff\xd8")
    assert shelf.thumbnail(tmp_path / "gone.png", 100) is None
