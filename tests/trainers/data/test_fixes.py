"""`doctor --fix`: a copy that trains, and an original that no byte of is changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_diffusion.errors import InputError
from tests.trainers.data.corpus import encoded, noise
from trainers.data import decode
from trainers.data.doctor import diagnose
from trainers.data.fixes import write_fixed
from trainers.data.scan import find
from trainers.spec import DataSpec


def state(root: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() + str(path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def make_mess(root: Path) -> None:
    def write(name: str, content: bytes) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    exif = Image.Exif()
    exif[0x0112] = 6
    write("turned.jpg", encoded(noise(1, 30, 40), "JPEG", exif=exif))
    write("turned.txt", "café".encode("cp1252"))
    write("turned.mask.png", encoded(noise(1, 30, 40).convert("L"), "PNG"))
    write("deep.png", encoded(Image.fromarray(np.full((8, 8), 30_000, np.uint16)), "PNG"))
    write("inks.jpg", encoded(noise(2).convert("CMYK"), "JPEG"))
    write("inks.png", encoded(noise(3), "PNG"))
    write("inks.jpg.txt", "sks inks".encode("utf-16"))
    write("clear.gif", encoded(noise(4).quantize(16), "GIF", transparency=0))
    write("plain.png", encoded(noise(5), "PNG"))
    write("plain.txt", b"sks plain")
    write("again/plain.png", encoded(noise(5), "PNG"))
    write("again/plain.txt", b"sks plain")
    write("named wrong.jpg", encoded(noise(6), "PNG"))
    write("cut.jpg", encoded(noise(7), "JPEG")[:300])
    write("sub/metadata.jsonl", b'{"file_name": "t.png", "text": "sks of a table"}')
    write("sub/t.png", encoded(noise(8), "PNG"))


def test_the_copy_is_clean_and_the_original_untouched(tmp_path):
    mess, out = tmp_path / "mess", tmp_path / "out"
    make_mess(mess)
    before = state(mess)
    data = DataSpec(folder=str(mess))
    report = diagnose(data, captions_needed=False, index_folder=tmp_path / "index")
    lines = write_fixed(report, out, 100)
    assert state(mess) == before
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == [
        "again/plain.png",
        "again/plain.txt",
        "clear.png",
        "deep.png",
        "inks.jpg.png",
        "inks.jpg.png.txt",
        "inks.png",
        "named wrong.png",
        "sub/metadata.jsonl",
        "sub/t.png",
        "turned.mask.png",
        "turned.png",
        "turned.txt",
    ]
    assert lines[0] == f"{out}: 8 pictures written"
    assert "  left out, a second copy: 1" in lines
    captions = {p.name: p.caption for p in find(DataSpec(folder=str(out), trigger="sks"))}
    assert captions["turned.png"] == "sks, café"
    assert captions["inks.jpg.png"] == "sks inks"
    assert captions["sub/t.png"] == "sks of a table"
    for new, old in (("turned.png", "turned.jpg"), ("inks.jpg.png", "inks.jpg"),
                     ("deep.png", "deep.png"), ("clear.png", "clear.gif")):  # fmt: skip
        pixels = [np.asarray(decode.load_rgb(path)) for path in (out / new, mess / old)]
        assert np.array_equal(*pixels), new
    assert Image.open(out / "clear.png").mode == "RGBA"  # the transparency may be a mask
    after = diagnose(DataSpec(folder=str(out), trigger="sks"), index_folder=tmp_path / "index")
    assert not after.count("error")


@pytest.mark.parametrize("place", ["mess/out", ".", "full", "mess"])
def test_places_that_would_lose_something_are_refused(tmp_path, place):
    make_mess(tmp_path / "mess")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    before = state(tmp_path)
    report = diagnose(
        DataSpec(folder=str(tmp_path / "mess")),
        captions_needed=False,
        index_folder=tmp_path.parent / "index",
    )
    with pytest.raises(InputError, match="--fix"):
        write_fixed(report, tmp_path / place, 100)
    assert state(tmp_path) == before
