"""Taking in files and zips, hostile ones among them."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from tests.trainers.data.zips import ATTACKS, make_zip
from trainers.data import archive, intake
from trainers.data.changes import Changes
from trainers.data.intake import take_in


def _add(folder: Path, spool: Path, *files: tuple[str, bytes]) -> intake.Intake:
    spool.mkdir(exist_ok=True)
    given = []
    for number, (name, content) in enumerate(files):
        path = spool / str(number)
        path.write_bytes(content)
        given.append((path, name))
    taken = take_in(folder, given)
    Changes(folder).make("Added", taken.moves)
    return taken


def _names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and ".studio" not in path.parts
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    return made


def test_files_keep_their_captions_and_masks(folder: Path, tmp_path: Path) -> None:
    (folder / "A.png").write_bytes(b"old")
    taken = _add(
        folder, tmp_path / "spool",
        ("a.png", b"1"), ("a.txt", b"2"), ("a.mask.png", b"3"), ("b.jpg", b"4"),
        ("b.jpg.txt", b"5"), ("notes.docx", b"6"), ("page.html", b"7"), (".DS_Store", b"8"),
    )  # fmt: skip
    assert _names(folder) == [
        "A.png", "a-2.mask.png", "a-2.png", "a-2.txt", "b.jpg", "b.jpg.txt"
    ]  # fmt: skip
    assert (folder / "A.png").read_bytes() == b"old"
    assert (taken.pictures, taken.captions, taken.left_out_count) == (3, 2, 2)
    assert taken.left_out == ["notes.docx", "page.html"]


def test_adding_is_undone_and_nothing_is_lost(folder: Path, tmp_path: Path) -> None:
    _add(folder, tmp_path / "spool", ("a.png", b"1"))
    Changes(folder).undo()
    assert _names(folder) == []
    assert [path.read_bytes() for path in folder.rglob("a.png")] == [b"1"]


def test_folders_become_part_of_the_name_where_they_tell_apart(
    folder: Path, tmp_path: Path
) -> None:
    _add(
        folder, tmp_path / "spool",
        ("cats/red/a.png", b"1"), ("cats/red/a.txt", b"2"), ("cats/blue/a.png", b"3"),
    )  # fmt: skip
    assert _names(folder) == ["blue-a.png", "red-a.png", "red-a.txt"]


def test_a_zip_is_unpacked_flat(folder: Path, tmp_path: Path) -> None:
    content = make_zip(
        ("set/a.png", b"1"), ("set/a.txt", b"2"), ("set/more/b.png", b"3"),
        ("__MACOSX/set/._a.png", b"4"), ("set/metadata.jsonl", b"{}"),
    )  # fmt: skip
    taken = _add(folder, tmp_path / "spool", ("my.zip", content), ("a.png", b"0"))
    assert _names(folder) == ["a-2.png", "a-2.txt", "a.png", "metadata.jsonl", "more-b.png"]
    assert (taken.pictures, taken.captions) == (3, 1)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack[0])
def test_hostile_archives(folder: Path, tmp_path: Path, attack: tuple[str, bytes]) -> None:
    """Nothing outside the folder, no link, no file that is not picture or caption."""
    outside = set(tmp_path.rglob("*")) | {tmp_path / "spool", tmp_path / "spool/0"}
    try:
        _add(folder, tmp_path / "spool", ("x.zip", attack[1]))
    except InputError as error:
        assert "\n" not in str(error)
        assert not list((folder / ".studio/incoming").iterdir())
    found = set(tmp_path.rglob("*")) - outside
    assert all(path.is_relative_to(folder) for path in found)
    assert not any(path.is_symlink() for path in found)
    for name in _names(folder):
        assert name.rpartition(".")[2].lower() in {"png", "txt"} and "/" not in name


def test_bytes_are_counted_as_they_come_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_BYTES", 1_000_000)
    bomb = make_zip(("a.png", b"\0" * 5_000_000))
    assert len(bomb) < 10_000
    with pytest.raises(InputError, match=r"unpacks to more than 0\.001 GB"):
        _add(folder, tmp_path / "spool", ("bomb.zip", bomb))
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) == 0


def test_too_long_a_list_is_refused_before_it_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 5)
    many = make_zip(*[(f"{n}.png", b"") for n in range(6)])
    with pytest.raises(InputError, match="lists more than"):
        _add(folder, tmp_path / "spool", ("x.zip", many))
    few = bytearray(make_zip(("a.png", b"1")))
    at = few.rfind(b"PK\x05\x06")
    struct.pack_into("<I", few, at + 12, archive.MAX_DIRECTORY_BYTES + 1)
    with pytest.raises(InputError, match="lists more than"):
        _add(folder, tmp_path / "spool", ("x.zip", bytes(few)))


def test_names_are_made_harmless(folder: Path, tmp_path: Path) -> None:
    long = "x" * 300 + ".png"
    _add(
        folder, tmp_path / "spool",
        ('a<b onload=alert("1")>.png', b"1"), ("\u202egnp.exe.png", b"2"), (long, b"3"),
        ("C:\\pictures\\c.png", b"4"), ("../../d.png", b"5"), (" e .png", b"6"),
    )  # fmt: skip
    names = _names(folder)
    assert len(names) == 6 and all("/" not in n and len(n) <= 120 for n in names)
    assert not any(set(name) & set('<>:"\u202e\\') for name in names)


def test_nothing_of_use_is_told(folder: Path, tmp_path: Path) -> None:
    for files in ([("a.exe", b"1")], [("x.zip", make_zip(("a.exe", b"1")))], []):
        with pytest.raises(InputError, match="no picture and no caption"):
            _add(folder, tmp_path / "spool", *files)


def test_a_full_disk_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "FREE_BYTES", 1 << 60)
    with pytest.raises(InputError, match="unpacks to more than"):
        _add(folder, tmp_path / "spool", ("x.zip", make_zip(("a.png", b"1"))))


def test_an_encrypted_zip_is_told(folder: Path, tmp_path: Path) -> None:
    content = bytearray(make_zip(("a.png", b"1" * 50)))
    content[6] |= 1
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    assert zipfile.ZipFile(io.BytesIO(bytes(content))).infolist()[0].flag_bits & 1
    with pytest.raises(InputError, match="damaged or encrypted"):
        _add(folder, tmp_path / "spool", ("x.zip", bytes(content)))
