"""Changes of a dataset's files: all or nothing, and undone to the byte."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from trainers.data import changes
from trainers.data.changes import Changes, Move, Write


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and changes.HIDDEN not in path.parts
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_bytes(b"\xff\xfea cat\r\n")
    (tmp_path / "sub/b.txt").write_bytes(b"")
    (tmp_path / "a.png").write_bytes(os.urandom(100_000))
    return tmp_path


STEPS = [
    Write("a.txt", b"a dog"),
    Write("sub/b.txt", b"b"),
    Write("new/c.txt", b"c"),
    Move("a.png", ".excluded/a.png"),
]


def test_a_change_is_made_and_undone_to_the_byte(folder: Path) -> None:
    before = _contents(folder)
    made = Changes(folder).make("All of it", STEPS)
    assert _contents(folder) == {
        "a.txt": b"a dog", "sub/b.txt": b"b", "new/c.txt": b"c",
        ".excluded/a.png": before["a.png"],
    }  # fmt: skip
    assert made.names == ("a.txt", "sub/b.txt", "new/c.txt", "a.png")
    again = Changes(folder)  # as after a restart
    assert again.last() == made
    assert again.undo().title == "All of it"
    assert _contents(folder) == before
    assert again.made() == [] and not list((folder / ".studio/undo").iterdir())
    with pytest.raises(InputError, match="nothing to undo"):
        again.undo()


def test_changes_are_undone_from_the_newest(folder: Path) -> None:
    history = Changes(folder)
    for text in (b"1", b"2", b"3"):
        history.make(text.decode(), [Write("a.txt", text)])
    assert [change.title for change in history.made()] == ["1", "2", "3"]
    assert history.undo().title == "3"
    assert (folder / "a.txt").read_bytes() == b"2"


@pytest.mark.parametrize("failing", range(4))
def test_where_a_step_fails_none_is_taken(
    folder: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _contents(folder)
    count = 0

    def breaking(real):
        def step(path, *rest, **how):
            nonlocal count
            count += 1
            if count - 1 == failing:
                raise OSError(28, "No space left on device", str(path))
            return real(path, *rest, **how)

        return step

    monkeypatch.setattr(changes, "_replace", breaking(changes._replace))
    monkeypatch.setattr(Path, "rename", breaking(Path.rename))
    with pytest.raises(InputError, match="No space left"):
        Changes(folder).make("All of it", STEPS)
    monkeypatch.undo()
    assert _contents(folder) == before
    assert Changes(folder).last() is None


@pytest.mark.parametrize("taken", range(5))
def test_a_change_cut_short_is_undone(
    folder: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a power cut between two steps: the record is there, some steps are taken."""
    before = _contents(folder)

    class Cut(BaseException):
        pass

    real = Changes._take

    def cut(self: Changes, steps):
        real(self, steps[:taken])
        raise Cut

    monkeypatch.setattr(Changes, "_take", cut)
    with pytest.raises(Cut):
        Changes(folder).make("All of it", STEPS)
    Changes(folder).undo()
    assert _contents(folder) == before


def test_what_another_program_wrote_since_is_not_lost(folder: Path) -> None:
    history = Changes(folder)
    history.make("Both", [Write("a.txt", b"ours"), Write("sub/b.txt", b"ours")])
    (folder / "a.txt").write_bytes(b"theirs")
    with pytest.raises(InputError, match=r"a\.txt: was changed since"):
        history.undo()
    assert (folder / "a.txt").read_bytes() == b"theirs"
    assert (folder / "sub/b.txt").read_bytes() == b"ours"
    assert history.last() is not None


@pytest.mark.parametrize(
    "step",
    [
        Write("../out.txt", b""),
        Write("/etc/out.txt", b""),
        Write("sub/../../out.txt", b""),
        Write("a\\..\\out.txt", b""),
        Write("", b""),
        Write("sub", b""),
        Write("link.txt", b""),
        Move("gone.png", "b.png"),
        Move("a.png", "a.txt"),
        Move("a.png", "../a.png"),
    ],
)
def test_what_may_not_be_done_is_refused_before_anything_is(folder: Path, step) -> None:
    (folder / "link.txt").symlink_to(folder / "a.txt")
    before = _contents(folder)
    with pytest.raises(InputError):
        Changes(folder).make("No", [Write("sub/b.txt", b"changed"), step])
    assert _contents(folder) == before and Changes(folder).last() is None


def test_a_full_disk_is_told_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "FREE_BYTES", 1 << 60)
    with pytest.raises(InputError, match="nearly full"):
        Changes(folder).make("No", STEPS)


def test_a_damaged_record_is_one_sentence(folder: Path) -> None:
    history = Changes(folder)
    history.make("x", [Write("a.txt", b"x")])
    (folder / ".studio/undo/000001.json").write_text("{")
    with pytest.raises(InputError, match="can't be undone"):
        history.undo()


def test_the_records_are_no_part_of_the_dataset(folder: Path) -> None:
    from trainers.data.walk import walk

    Changes(folder).make("x", [Write("a.txt", b"x"), Move("a.png", ".excluded/a.png")])
    assert list(walk(folder).files) == ["a.txt", "sub/b.txt"]


def _aged(folder: Path, number: int, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(folder / f".studio/undo/{number:06d}.json", (then, then))


def test_old_changes_are_forgotten_and_the_others_can_be_undone(folder: Path) -> None:
    before = _contents(folder)
    history = Changes(folder)
    for number in range(1, 5):
        history.make(str(number), [Write("a.txt", b"%d" % number)])
    for number, days in ((1, 40), (2, 31), (3, 29)):
        _aged(folder, number, days)
    assert Changes(folder).prune() == 2
    assert [change.number for change in history.made()] == [3, 4]
    assert sorted(path.name for path in (folder / ".studio/undo").iterdir()) == [
        "000003.bin", "000003.json", "000004.bin", "000004.json"
    ]  # fmt: skip
    assert history.prune() == 0
    assert [history.undo().title, history.undo().title] == ["4", "3"]
    assert _contents(folder) == before | {"a.txt": b"2"}


def test_changes_beyond_the_bytes_are_forgotten_but_none_of_today(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "KEPT_BYTES", 150_000)
    history = Changes(folder)
    for number in range(1, 5):
        history.make(str(number), [Write("a.png", os.urandom(100_000))])
    assert history.prune() == 0
    _aged(folder, 1, 2)
    _aged(folder, 2, 2)
    _aged(folder, 4, 2)
    assert history.prune() == 2
    assert [change.number for change in history.made()] == [3, 4]


def test_the_newest_change_stays_however_old(folder: Path) -> None:
    history = Changes(folder)
    history.make("Long ago", STEPS)
    _aged(folder, 1, 4_000)
    assert history.prune() == 0
    assert history.last() is not None
    history.undo()
    (folder / ".studio/undo").rmdir()
    assert history.prune() == 0 and not (folder / ".studio/undo").exists()
