"""A picture within a tar is opened, read and decoded as one on disk."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from lora_diffusion.errors import InputError
from trainers.data.decode import load_rgb
from trainers.data.source import TarMember


def test_a_member_decodes_as_the_file_does(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    shard = tmp_path / "s.tar"
    with tarfile.open(shard, "w") as tar:
        for name in ("dir/first.png", "dir/a.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    with tarfile.open(shard) as tar:
        offset = tar.getmember("dir/a.png").offset_data
    member = TarMember(shard, "dir/a.png", offset, len(content))
    assert (member.name, member.stem, member.suffix) == ("a.png", "a", ".png")
    assert member.read_bytes() == content
    assert np.array_equal(np.asarray(load_rgb(member)), pixels)


def test_it_reads_as_a_file_of_its_own(tmp_path):
    shard = tmp_path / "s.tar"
    shard.write_bytes(b"before0123456789after")
    member = TarMember(shard, "a", 6, 10)
    with member.open() as file:
        assert file.read(3) == b"012"
        assert file.seek(-2, 2) == 8
        assert file.read() == b"89"
        assert file.seek(50) == 50
        assert file.read() == b""
        assert file.seek(1) == 1
        assert file.seek(1, 1) == 2
        assert file.read(100) == b"23456789"
        with pytest.raises(OSError, match="before the beginning"):
            file.seek(-1)
    with pytest.raises(ValueError, match="can't be opened as 'wb'"):
        member.open("wb")
    assert shard.read_bytes() == b"before0123456789after"


def test_a_cut_shard_is_named(tmp_path):
    shard = tmp_path / "s.tar"
    shard.write_bytes(b"short")
    cut = TarMember(shard, "a.png", 3, 10)
    with pytest.raises(InputError, match=r"s\.tar:a\.png"):
        load_rgb(cut)
    with pytest.raises(OSError, match=r"ends within a\.png"):
        cut.read_bytes()
