"""Mending a folder where it lies: the problem is gone, undo brings every byte back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainers.data.buckets import BucketRules
from trainers.data.changes import HIDDEN, Changes
from trainers.data.doctor import Report, diagnose
from trainers.data.mends import EXCLUDED, excluded, excluding, mends, steps_for
from trainers.spec import DataSpec


def _picture(path: Path, seed: int, side: int = 128, **how: object) -> None:
    low = np.random.default_rng(seed).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(low).resize((side, side), Image.Resampling.BICUBIC).save(path, **how)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    for number in range(3):
        _picture(data / f"{number}.png", number)
        (data / f"{number}.txt").write_text(f"picture {number}")
    (data / "copy.png").write_bytes((data / "0.png").read_bytes())
    (data / "copy.txt").write_text("picture 0")
    (data / "copy.mask.png").write_bytes((data / "0.png").read_bytes())
    _picture(data / "1-small.png", 1, 96)
    (data / "broken.png").write_bytes((data / "2.png").read_bytes()[:200])
    (data / "broken.png.txt").write_text("broken")
    _picture(data / "tiny.png", 9, 16)
    Image.new("RGB", (128, 128), "red").save(data / "flat.png")
    _picture(data / "jpeg.png", 10, 128, format="JPEG")
    (data / "jpeg.png.txt").write_text("a jpeg")
    _picture(data / "latin.png", 11)
    (data / "latin.txt").write_bytes("ein Käfer über grünem Gras".encode("cp1252"))
    _picture(data / "two.png", 12)
    _picture(data / "two.webp", 13)
    (data / "two.txt").write_text("both")
    (data / "left.txt").write_text("over")
    return data


def _look(folder: Path, tmp_path: Path) -> Report:
    return diagnose(
        DataSpec(folder=str(folder)),
        rules=BucketRules.around(64, 8),
        captions_needed=False,
        index_folder=tmp_path / "index",
    )


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and HIDDEN not in path.parts
    }


@pytest.mark.parametrize(
    ("kind", "gone", "come"),
    [
        ("duplicate", {"copy.png", "copy.txt", "copy.mask.png"}, set()),
        ("near-duplicate", {"1-small.png"}, set()),
        ("unreadable-picture", {"broken.png", "broken.png.txt"}, set()),
        ("too-small", {"tiny.png"}, set()),
        ("flat", {"flat.png"}, set()),
        ("wrong-ending", {"jpeg.png", "jpeg.png.txt"}, {"jpeg.jpg", "jpeg.jpg.txt"}),
        ("caption-encoding", set(), set()),
        ("shared-caption", {"two.txt"}, {"two.png.txt", "two.webp.txt"}),
        ("caption-without-picture", {"left.txt"}, set()),
    ],
)
def test_a_mend(folder: Path, tmp_path: Path, kind: str, gone: set[str], come: set[str]) -> None:
    before, report = _contents(folder), _look(folder, tmp_path)
    assert kind in report.kinds() and mends(kind)
    Changes(folder).make(mends(kind), steps_for(kind, report, folder))
    after = _contents(folder)
    visible = {name for name in after if not name.startswith(f"{EXCLUDED}/")}
    assert before.keys() - visible == gone and visible - before.keys() == come
    assert kind not in _look(folder, tmp_path).kinds()
    assert set(before.values()) - set(after.values()) <= {before["latin.txt"]}, "lost"
    Changes(folder).undo()
    assert _contents(folder) == before


def test_a_guessed_encoding_becomes_utf8(folder: Path, tmp_path: Path) -> None:
    steps = steps_for("caption-encoding", _look(folder, tmp_path), folder)
    Changes(folder).make("x", steps)
    assert (folder / "latin.txt").read_text("utf-8") == "ein Käfer über grünem Gras"


def test_the_original_of_copies_stays(folder: Path, tmp_path: Path) -> None:
    """`a (copy).png` sorts before `a.png`; a captioned copy is worth more than a bare one."""
    (folder / "0 (copy).png").write_bytes((folder / "0.png").read_bytes())
    (folder / "-.png").write_bytes((folder / "0.png").read_bytes())
    steps = steps_for("duplicate", _look(folder, tmp_path), folder)
    assert {s.name for s in steps if s.name.endswith(".png")} == {
        "-.png", "0 (copy).png", "copy.png", "copy.mask.png"
    }  # fmt: skip


def test_an_ending_whose_name_is_taken_stays(folder: Path, tmp_path: Path) -> None:
    _picture(folder / "jpeg.jpg", 20)
    assert steps_for("wrong-ending", _look(folder, tmp_path), folder) == []


def test_what_has_no_mend(folder: Path, tmp_path: Path) -> None:
    assert mends("crop-loss") == ""
    assert steps_for("crop-loss", _look(folder, tmp_path), folder) == []


def test_what_is_taken_out_twice_lies_apart(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        Changes(folder).make("x", excluding(["tiny.png"], _look(folder, tmp_path), folder))
        _picture(folder / "tiny.png", 9, 16)
    assert excluded(folder) == ["2/tiny.png", "tiny.png"]


def test_a_caption_that_another_picture_needs_stays(folder: Path, tmp_path: Path) -> None:
    steps = excluding(["two.png"], _look(folder, tmp_path), folder)
    assert [step.name for step in steps] == ["two.png"]
