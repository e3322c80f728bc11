"""Hashes as other tools compute them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_diffusion.errors import AdapterFileError
from lora_diffusion.formats.hash import EMPTY_SHA256, file_hashes, legacy_hash, model_hash

HEADER = b'{"a":{"dtype":"U8","shape":[3000000],"data_offsets":[0,3000000]}}'


def test_each_hash_is_of_what_its_name_says(raw_file: Callable[..., Path]) -> None:
    data = os.urandom(3_000_000)  # more than one read
    path = raw_file(HEADER, data)
    found = file_hashes(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.model == hashlib.sha256(data).hexdigest() == model_hash(path)
    assert found.autov2 == found.sha256[:10]
    assert found.autov3 == found.model[:12]


def test_a_metadata_edit_moves_autov2_and_not_autov3(raw_file: Callable[..., Path]) -> None:
    data = os.urandom(3_000_000)
    before = file_hashes(raw_file(HEADER, data))
    after = file_hashes(raw_file(HEADER[:-1] + b',"__metadata__":{"k":"v"}}', data))
    assert before.autov2 != after.autov2
    assert before.autov3 == after.autov3


def test_never_the_hash_of_nothing(raw_file: Callable[..., Path]) -> None:
    assert EMPTY_SHA256.startswith("e3b0c44298fc1c14")
    with pytest.raises(AdapterFileError, match="no tensor bytes"):
        file_hashes(raw_file(b"{}"))
    assert legacy_hash(b"x" * 0x100000, []) is None
    assert legacy_hash(b"x" * 100, [b"y" * 100]) is None


def test_legacy_hash_reads_across_chunks() -> None:
    whole = os.urandom(0x120000)
    expected = hashlib.sha256(whole[0x100000:0x110000]).hexdigest()[:8]
    for cut in (1, 0x100000, 0x100001, 0x10FFFF, 0x110000):
        assert legacy_hash(whole[:cut], [whole[cut : cut + 5], whole[cut + 5 :]]) == expected
    short = whole[: 0x100000 + 7]
    assert legacy_hash(short, []) == hashlib.sha256(short[0x100000:]).hexdigest()[:8]
