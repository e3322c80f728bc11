"""Other metadata, the same tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from lora_diffusion.errors import AdapterFileError, InputError
from lora_diffusion.formats import hash as hashes
from lora_diffusion.formats.header import read_header
from lora_diffusion.formats.relabel import changed, relabel, shared

BEFORE = {
    "ss_network_dim": "4", "ss_dataset_dirs": '{"/home/me/cats": {}}', "ss_tag_frequency": "{}",
    "ss_training_started_at": "1.5", "modelspec.title": "Ä cat", "modelspec.date": "2026-11-24",
    "sshs_legacy_hash": "deadbeef", "lora_diffusion.spec": "{}", "my note": "x",
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    tensors = {f"t{n}": np.arange(6, dtype=np.float16).reshape(2, 3) + n for n in range(3)}
    save_file(tensors, path, metadata=BEFORE)
    return path


def test_tensors_stay_and_metadata_changes(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    relabel(file, out, changed(BEFORE, {"modelspec.title": "Fox 狐", "new": ""}, ["my note"]))
    after = read_header(out).metadata
    assert after["modelspec.title"] == "Fox 狐" and after["new"] == "" and "my note" not in after
    assert "sshs_legacy_hash" not in after, "it covered the old metadata"
    assert hashes.model_hash(out) == hashes.model_hash(file)
    with safe_open(out, "np") as a, safe_open(file, "np") as b:
        assert a.keys() == b.keys()
        assert all(np.array_equal(a.get_tensor(k), b.get_tensor(k)) for k in list(b.keys()))


def test_a_clean_file_tells_nothing_of_its_maker(file: Path, tmp_path: Path) -> None:
    relabel(file, tmp_path / "b.safetensors", shared(BEFORE))
    assert read_header(tmp_path / "b.safetensors").metadata == {
        "ss_network_dim": "4", "modelspec.title": "Ä cat"
    }  # fmt: skip


def test_a_file_is_relabelled_in_place_or_left_as_it_was(file: Path) -> None:
    relabel(file, file, {"a": "b"})
    assert read_header(file).metadata == {"a": "b"}
    before = file.read_bytes()
    for metadata in ({"": "x"}, {"k" * 201: "x"}, {"k": "x" * (9 << 20)}):
        with pytest.raises(InputError):
            relabel(file, file, metadata)
    assert file.read_bytes() == before


def test_what_is_wrong_is_one_sentence(file: Path, tmp_path: Path) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"PK\x03\x04 zip")
    with pytest.raises(AdapterFileError, match="zip"):
        relabel(tmp_path / "no.safetensors", tmp_path / "b.safetensors", {})
    with pytest.raises(InputError, match="no such metadata key"):
        changed(BEFORE, {}, ["gone"])
