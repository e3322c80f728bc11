"""A folder of pictures as the form shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from tests.ui.made_runs import picture
from trainers.data import walk
from ui import datasets


def test_pictures_and_captions_are_found_whatever_the_case(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.webp", "sub/d.png"):
        picture(tmp_path / name, 1, "#123456")
    (tmp_path / "a.txt").write_text("\ufeffa  caption\nin two lines\x1b[31m", encoding="utf-8")
    (tmp_path / "c.caption").write_text("another")
    (tmp_path / "notes.md").write_text("x")
    picture(tmp_path / ".hidden.png", 1, "#123456")
    found = datasets.look(str(tmp_path))
    assert [p.name for p in found.pictures] == ["a.jpg", "b.PNG", "c.webp", "d.png"]
    assert found.captioned == 2
    assert found.caption(found.pictures[0]) == "a caption in two lines[31m"
    assert found.caption(found.pictures[1]) == ""


@pytest.mark.parametrize("location", ["", "  ", "/no/such/folder", "bundled:nope", "\x00"])
def test_what_is_no_folder_is_told(location: str) -> None:
    with pytest.raises(InputError):
        datasets.look(location)


def test_a_folder_without_pictures_and_one_with_far_too_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="has no pictures"):
        datasets.look(str(tmp_path))
    monkeypatch.setattr(walk, "MAX_ENTRIES", 3)
    for number in range(5):
        (tmp_path / f"{number}.dat").write_bytes(b"")
    with pytest.raises(InputError, match="more than 3 files"):
        datasets.look(str(tmp_path))


def test_a_caption_is_cut(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1, "#123456")
    (tmp_path / "a.txt").write_text("word " * 100_000)
    found = datasets.look(str(tmp_path))
    assert len(found.caption(found.pictures[0])) == 300
    assert datasets.first_picture("/no/such/folder") is None
