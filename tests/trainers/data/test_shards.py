"""WebDataset shards: found, read and indexed as folders are; bad archives are named, none harms."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_diffusion.errors import InputError
from trainers.data import shards
from trainers.data.decode import load_rgb
from trainers.data.doctor import diagnose
from trainers.data.fixes import write_fixed
from trainers.data.scan import find, find_all
from trainers.data.shards import clean, expand, list_members
from trainers.data.source import TarMember
from trainers.data.user_cache import VARIABLE
from trainers.spec import DataSpec

Files = Iterable[tuple[str, bytes]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The index goes into a folder of the test's own."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, files: Files, format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def data(folder: Path, **settings: object) -> DataSpec:
    return DataSpec.model_validate({"folder": str(folder), "trigger": "sks", **settings})


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_give_what_the_same_folder_gives(tmp_path, format):
    long = "a" * 60 + "/" + "b" * 60 + "é"
    files = {
        "a.png": png(1),
        "a.txt": b"one",
        "deep/b.webp.png": png(2),
        "deep/b.webp.txt": b"two",
        f"{long}.png": png(3),
        f"{long}.txt": "drei ü".encode(),
        "c.png": png(4),
        "metadata.jsonl": b'{"file_name": "c.png", "text": "four"}\n',
        "d.png": png(5),
        "d.mask.png": png(6),
    }
    for name, content in files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    pack(tmp_path / "shards" / "s.tar", files.items(), format)
    plain = find(data(tmp_path / "folder"))
    packed = find(data(tmp_path / "shards"))
    assert [p.name for p in packed] == [f"s.tar/{p.name}" for p in plain]
    assert [p.captions for p in packed] == [p.captions for p in plain]
    for one, other in zip(plain, packed, strict=True):
        assert isinstance(other.path, TarMember)
        assert np.array_equal(np.asarray(load_rgb(one.path)), np.asarray(load_rgb(other.path)))
        assert (one.mask is None) == (other.mask is None)
        if one.mask is not None and other.mask is not None:
            assert one.mask.read_bytes() == other.mask.read_bytes()
    assert sum(p.mask is not None for p in packed) == 1


def test_captions_from_a_samples_json(tmp_path):
    pack(
        tmp_path / "s.tar",
        [
            *((f"{n}.png", png(n)) for n in range(5)),
            ("0.json", b'{"caption": "from json", "url": "x"}'),
            ("1.json", b'{"caption": "not this"}'),
            ("1.txt", b"the text wins"),
            ("2.json", b'{"url": "says nothing"}'),
            ("3.json", b"[" * 50_000),
            ("4.json", json.dumps({"caption": ["a", "b"]}).encode()),
        ],
    )
    assert [p.captions for p in find(data(tmp_path / "s.tar"))] == [
        ("sks, from json",),
        ("sks, the text wins",),
        ("a photo of sks",),
        ("a photo of sks",),
        ("sks, a", "sks, b"),
    ]


def test_patterns_over_several_disks(tmp_path):
    for disk, number in (("d1", 8), ("d1", 9), ("d2", 8), ("d2", 9), ("d2", 11)):
        name = f"s-{number:03d}.tar"
        pack(tmp_path / disk / name, [("a.png", png(number)), ("a.txt", name.encode())])
    found = find(data(tmp_path / "{d1,d2}" / "s-{008..009}.tar"))
    assert [p.name for p in found] == [
        f"{disk}/s-{number}.tar/a.png" for disk in ("d1", "d2") for number in ("008", "009")
    ]
    with pytest.raises(InputError, match=r"s-010\.tar: there is no such shard"):
        find(data(tmp_path / "d2" / "s-{009..011}.tar"))


def test_patterns():
    assert expand("a.tar") == ["a.tar"]
    assert expand("a-{09..11}.tar") == ["a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{2..1}{a,b,}") == ["2a", "2b", "2", "1a", "1b", "1"]
    assert expand("a{b}c{..}{1..x}") == ["a{b}c{..}{1..x}"]
    for absurd in ("{0..999999999}", "{0..999}" * 9, "{" + "a," * 200_000 + "}"):
        with pytest.raises(InputError, match="more than 100,000 shards"):
            expand(absurd)


def test_kohyas_names_and_clashes(tmp_path):
    pack(tmp_path / "5_red cat.tar", [("a.png", png())])
    pack(tmp_path / "s.tar", [("x/a.png", png(1)), ("x/./a.png", png(2)), ("b.png", png(3))])
    (tmp_path / "c.tar.gz").write_bytes(b"?")
    found = find_all(data(tmp_path))
    assert [(p.name, p.repeats, p.captions) for p in found.pictures] == [
        ("5_red cat.tar/a.png", 5, ("sks, red cat",)),
        ("s.tar/b.png", 1, ("a photo of sks",)),
        ("s.tar/x/a.png", 1, ("a photo of sks",)),
    ]
    assert load_rgb(found.pictures[2].path).tobytes() == Image.open(io.BytesIO(png(1))).tobytes()
    assert {(p.file, p.kind, p.severity) for p in found.problems} == {
        ("s.tar/x/a.png", "same-name", "warning"),
        ("c.tar.gz", "compressed-shard", "warning"),
    }


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("a/b.png", "a/b.png"),
        ("./a.png", "a.png"),
        ("/etc/a.png", "etc/a.png"),
        ("../../a.png", "a.png"),
        ("..\\..\\a.png", "a.png"),
        ("C:\\x\\a.png", "C_/x/a.png"),
        ("a/\x1b[31m\u202eb.png", "a/[31mb.png"),
        ("a/.\x00./b.png", "a/b.png"),
        ("a\n.png", "a.png"),
        (".hidden.png", None),
        ("x/._a.png", None),
        ("__MACOSX/a.png", None),
        ("a/", None),
        ("..", None),
        ("", None),
        ("x" * 2_000, None),
    ],
)
def test_names_are_labels(name, label):
    assert clean(name) == label


def header(name: bytes = b"a.png", size: bytes = b"00000000005\0", kind: bytes = b"0") -> bytes:
    """A ustar header with a right checksum, whatever it says."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124:136] = size.ljust(12, b"\0")[:12]
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\00000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    content = b"".join(records)
    size = b"%011o\0" % len(content)
    return header(b"pax", size, kind) + content + bytes(-len(content) % 512)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


FILE = header() + b"hello" + bytes(507)
END = bytes(1024)
HUGE = b"\x80" + b"\x00" * 3 + b"\x7f" * 8
NEGATIVE = b"\xff" * 11 + b"\x00"
# name -> (the archive, how many files are found in it, what its fault says; None: no fault)
MALFORMED: dict[str, tuple[bytes, int, str | None]] = {
    "empty": (b"", 0, None),
    "only the end": (END, 0, None),
    "no end": (FILE, 1, None),
    "text": (b"hello, I am no tar", 0, "is no tar"),
    "gzip": (b"\x1f\x8b\x08" + bytes(range(256)) * 4, 0, "is no tar"),
    "zip": (b"PK\x03\x04" + bytes(range(1, 255)) * 4, 0, "is no tar"),
    "noise": (np.random.default_rng(0).bytes(8_192), 0, "is no tar"),
    "short header": (FILE[:300], 0, "is no tar"),
    "header cut at the second": (FILE + FILE[:300], 1, "damaged at byte 1,024"),
    "content cut": (FILE + header(size=b"00000004000\0") + b"x" * 512, 1, "is cut off after 1"),
    "content missing": (header(), 0, "is cut off after 0"),
    "checksum": (FILE + FILE.replace(b"a.png", b"b.png"), 1, "damaged at byte 1,024"),
    "checksum no number": (FILE[:148] + b"zzzzzzzz" + FILE[156:], 0, "is no tar"),
    "size no number": (FILE + header(size=b"zzzzzzzzzzz\0"), 1, "damaged"),
    "size huge": (FILE + header(size=HUGE) + bytes(512), 1, "cut off"),
    "size negative": (FILE + header(size=NEGATIVE) + bytes(512), 1, "damaged"),
    "size just over": (header(size=b"00000000771\0") + bytes(504), 0, "cut off"),
    "size all sevens": (FILE + header(size=b"777777777777"), 1, "cut off"),
    "hard link": (header(kind=b"1") + FILE + END, 1, None),
    "symbolic link": (header(kind=b"2") + FILE + END, 1, None),
    "character device": (header(kind=b"3") + FILE + END, 1, None),
    "block device": (header(kind=b"4") + FILE + END, 1, None),
    "folder": (header(b"dir/", kind=b"5") + FILE + END, 1, None),
    "folder with a size": (header(b"dir/", HUGE, b"5") + FILE + END, 1, None),
    "pipe": (header(kind=b"6") + FILE + END, 1, None),
    "unknown kind": (header(kind=b"Z") + b"hello" + bytes(507) + FILE + END, 1, None),
    "unknown kind, cut": (FILE + header(size=HUGE, kind=b"Z"), 1, None),
    "old folder": (header(b"dir/", b"0\0", kind=b"\0") + FILE + END, 1, None),
    "old file": (header(kind=b"\0") + b"hello" + bytes(507), 1, None),
    "contiguous": (header(kind=b"7") + b"hello" + bytes(507), 1, None),
    "sparse": (FILE + header(kind=b"S") + bytes(512), 1, "sparse"),
    "pax sparse": (FILE + pax(record(b"GNU.sparse.major", b"1")) + FILE, 1, "sparse"),
    "long name cut": (FILE + header(size=b"00000001000\0", kind=b"L") + b"x", 1, "damaged"),
    "long name huge": (FILE + header(size=HUGE, kind=b"L"), 1, "damaged"),
    "long name, no file": (header(kind=b"L") + b"hello" + bytes(507), 0, None),
    "long name, then the end": (header(kind=b"L") + b"hello" + bytes(507) + END, 0, None),
    "long name empty": (header(size=b"00000000000\0", kind=b"L") + FILE, 0, None),
    "many long names": ((header(kind=b"L") + b"h.png" + bytes(507)) * 50 + FILE, 1, None),
    "long link": (header(kind=b"K") + b"hello" + bytes(507) + FILE, 1, None),
    "pax huge": (FILE + header(size=b"77777777777\0", kind=b"x"), 1, "damaged"),
    "pax cut": (FILE + header(size=b"00000000050\0", kind=b"x") + b"1", 1, "damaged"),
    "pax noise": (pax(bytes(range(256))) + FILE, 1, None),
    "pax length zero": (pax(b"0 path=x\n" * 9) + FILE, 1, None),
    "pax length over": (pax(b"999 path=x\n") + FILE, 1, None),
    "pax length absurd": (pax(b"9" * 400 + b" path=x\n") + FILE, 1, None),
    "pax size negative": (pax(record(b"size", b"-512")) + FILE, 0, "no number"),
    "pax size no number": (pax(record(b"size", b"1e9")) + FILE, 0, "no number"),
    "pax size huge": (pax(record(b"size", b"9" * 18)) + FILE, 0, "cut off"),
    "pax size beyond": (pax(record(b"size", b"9" * 5_000)) + FILE, 0, "no number"),
    "pax name up": (pax(record(b"path", b"../../../etc/a.png")) + FILE, 1, None),
    "pax name not utf-8": (pax(record(b"path", b"\xff\xfe.png")) + FILE, 1, None),
    "pax global": (pax(record(b"path", b"g.png"), kind=b"g") + FILE, 1, None),
    "pax global huge": (header(size=HUGE, kind=b"g"), 0, None),
    "name not utf-8": (header(b"\xff\xfe\xfd.png") + b"hello" + bytes(507), 1, None),
    "name empty": (header(b"") + b"hello" + bytes(507), 0, None),
    "name of dots": (header(b"../..") + b"hello" + bytes(507), 0, None),
    "name of controls": (header(b"\x1b[2J\x07.png") + b"hello" + bytes(507), 1, None),
    "name hidden": (header(b"a/.b.png") + b"hello" + bytes(507), 0, None),
    "too large": (header(size=b"10000000000\0") + b"x", 0, "cut off"),
    "after the end": (FILE + END + FILE, 1, None),
    "zero block within": (FILE + bytes(512) + FILE, 1, None),
    "thousand empty files": (header(size=b"00000000000\0") * 1_000, 1_000, None),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_archives(name, tmp_path):
    archive, count, fault = MALFORMED[name]
    shard = tmp_path / "shards" / "s.tar"
    shard.parent.mkdir()
    shard.write_bytes(archive)
    began = time.monotonic()
    listing = list_members(shard)
    assert time.monotonic() - began < 1
    assert len(listing.members) == count
    assert (listing.fault is None) == (fault is None)
    if listing.fault is not None:
        assert fault in listing.fault[0]
        assert listing.fault[0].isprintable()
    for member in listing.members:
        assert member.inner.isprintable()
        assert (tmp_path / member.inner).resolve().is_relative_to(tmp_path)
        assert len(member.read_bytes()) == member.size
    (shard.parent / "good.png").write_bytes(png())
    found = find_all(data(shard.parent))
    assert [p.kind for p in found.problems if p.severity == "error"] == (
        ["damaged-shard"] if fault else []
    )
    assert "good.png" in [p.name for p in found.pictures]
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside <= {"shards", "home"}


def test_there_are_over_fifty_malformed_archives():
    assert len(MALFORMED) >= 50


def test_a_bomb_of_a_size_is_an_error_and_costs_nothing(tmp_path):
    shard = tmp_path / "s.tar"
    size = shards.MAX_MEMBER_BYTES + 512
    with shard.open("wb") as file:
        file.write(header(b"bomb.png", b"%011o\0" % size))
        file.truncate(512 + size)  # a sparse file on disk
        file.seek(0, 2)
        file.write(FILE)
    began = time.monotonic()
    found = find_all(data(shard))
    assert time.monotonic() - began < 1
    assert [p.name for p in found.pictures] == ["s.tar/a.png"]
    assert [(p.file, p.kind) for p in found.problems] == [("s.tar/bomb.png", "too-large")]


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_MEMBERS", 10)
    for name in ("a", "b"):
        pack(tmp_path / f"{name}.tar", [(f"{n}.png", b"") for n in range(6)])
    with pytest.raises(InputError, match="more than 10 files"):
        find(data(tmp_path))
    pack(tmp_path / "a.tar", [(f"{n}.png", b"") for n in range(11)])
    assert list_members(tmp_path / "a.tar").fault is not None


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []
    real: Callable[[Path], shards.Listing] = shards.list_members

    def listing(shard: Path) -> shards.Listing:
        read.append(shard)
        return real(shard)

    monkeypatch.setattr(shards, "list_members", listing)
    return read


def test_the_second_start_reads_no_headers(tmp_path, monkeypatch):
    one = pack(tmp_path / "s" / "1.tar", [("a.png", png(1)), ("a.txt", b"one")])
    two = pack(tmp_path / "s" / "2.tar", [("a.png", png(2)), ("a.txt", b"two")])
    (tmp_path / "s" / "3.tar").write_bytes(b"damaged")
    read = counted(monkeypatch)
    first = find_all(data(tmp_path / "s"))
    assert len(read) == 3
    read.clear()
    second = find_all(data(tmp_path / "s"))
    assert second == first
    assert [path.name for path in read] == ["3.tar"], "a damaged shard is looked at anew"
    read.clear()
    pack(two, [("b.png", png(3)), ("b.txt", b"three")])
    assert [p.caption for p in find_all(data(tmp_path / "s")).pictures] == [
        "sks, one",
        "sks, three",
    ]
    assert one not in read
    for kept in (tmp_path / "home").rglob("shards/*.json"):
        kept.write_text('{"size_bytes": "nonsense"')
    assert len(find_all(data(tmp_path / "s")).pictures) == 2


def test_no_index_can_be_written(tmp_path, home):
    home.write_text("a file where the folder would be")
    pack(tmp_path / "s.tar", [("a.png", png())])
    for _ in range(2):
        assert len(find(data(tmp_path / "s.tar"))) == 1


def test_doctor_looks_into_shards_and_its_fix_unpacks_them(tmp_path):
    files = [
        ("a.png", png(1)),
        ("a.txt", "caf\xe9".encode("latin-1")),
        ("b.png", png(1)),
        ("b.json", b'{"caption": "from json"}'),
        ("c.png", png(2)[:60]),
        ("c.txt", b"cut"),
        ("d.png", png(3)),
        ("d.txt", b"fine"),
        ("d.mask.png", png(4)),
    ]
    pack(tmp_path / "in" / "s.tar", files)
    spec = data(tmp_path / "in")
    report = diagnose(spec)
    found = {(p.file, p.kind) for p in report.problems}
    assert ("s.tar/c.png", "unreadable-picture") in found
    assert ("s.tar/a.txt", "caption-encoding") in found
    assert ("s.tar/b.png", "duplicate") in found
    write_fixed(report, tmp_path / "out", 100)
    fixed = tmp_path / "out" / "s.tar"
    written = {path.name: path.read_bytes() for path in fixed.iterdir()}
    assert written["d.txt"] == b"fine"
    assert written["a.txt"].decode() == "café"
    assert written["a.png"] == png(1)
    assert written["d.mask.png"] == png(4)
    assert "c.png" not in written
    captions = [p.caption for p in find(data(tmp_path / "out"))]
    assert captions == ["sks, café", "sks, from json", "sks, fine"]


def test_captioning_a_shard_is_refused(tmp_path, capsys):
    from trainers.cli.main import main

    pack(tmp_path / "s.tar", [("a.png", png())])
    assert main(["caption", str(tmp_path), "--with", "template", "--template", "x"]) == 2
    assert "captions can't be written into a tar" in capsys.readouterr().err
