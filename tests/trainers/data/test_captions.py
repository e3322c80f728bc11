"""Captions and trigger words."""

from __future__ import annotations

import pytest

from lora_diffusion.errors import InputError
from trainers.data.captions import with_trigger, without_trigger
from trainers.data.scan import scan


@pytest.mark.parametrize(
    ("caption", "trigger", "expected"),
    [
        ("a dog", "sks", "sks, a dog"),
        ("a sks dog", "sks", "a sks dog"),
        ("sks, a dog", "sks", "sks, a dog"),
        ("asks for it", "sks", "sks, asks for it"),
        ("", "sks", "sks"),
        ("a dog", None, "a dog"),
        ("a (c++) thing", "c++", "a (c++) thing"),
    ],
)
def test_the_trigger_is_put_before_captions_that_lack_it(caption, trigger, expected):
    assert with_trigger(caption, trigger) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [("a sks dog", "a dog"), ("sks, a dog", "a dog"), ("asks", "asks"), ("sks", "")],
)
def test_the_trigger_can_be_taken_out(caption, expected):
    assert without_trigger(caption, "sks") == expected


def picture(path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(path)


def test_sidecars_are_read_and_missing_ones_get_the_default(tmp_path):
    for name in ("a.png", "b.JPG", "c.webp", ".hidden.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.md").write_text("no picture")
    (tmp_path / "a.txt").write_bytes("\ufeffone  two\n".encode())
    (tmp_path / "c.caption").write_text("three", encoding="utf-8")
    found = scan(tmp_path, default_caption="a photo of sks", trigger="sks")
    assert [(p.path.name, p.caption) for p in found] == [
        ("a.png", "sks, one two"),
        ("b.JPG", "a photo of sks"),
        ("c.webp", "sks, three"),
    ]
    with pytest.raises(InputError, match=r"b\.JPG.*b\.txt"):
        scan(tmp_path, default_caption=None)


def test_bad_folders_are_named(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    for folder, words in (
        (tmp_path / "none", "no such folder"),
        (tmp_path / "a.png", "is a file"),
        (tmp_path / "empty", "no pictures"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            scan(folder, default_caption="x")
        assert str(folder) in str(caught.value)
