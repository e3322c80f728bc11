"""Bytes on disk: order, determinism, hashes, atomic replacement, file mode."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from lora_diffusion.errors import AdapterFileError, InputError
from lora_diffusion.formats.container import read_tensors, write_tensors
from lora_diffusion.formats.hash import EMPTY_SHA256
from lora_diffusion.formats.header import read_header


def data_of(raw: bytes) -> bytes:
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def mixed() -> dict[str, torch.Tensor]:
    return {
        "b.half": torch.arange(6, dtype=torch.float16).reshape(2, 3),
        "a.half": torch.tensor(0.5, dtype=torch.float16),
        "z.wide": torch.arange(3, dtype=torch.float32),
        "B.brain": torch.arange(4, dtype=torch.bfloat16),
        "c.double": torch.ones(2, dtype=torch.float64),
        "a_b": torch.ones(1),
        "a.b": torch.zeros(1),
    }


def test_data_is_laid_out_as_the_library_does(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, mixed(), {"k": "v"}, with_hashes=False)
    assert data_of(path.read_bytes()) == data_of(save(mixed(), {"k": "v"}))
    for name, tensor in load_file(path).items():
        assert torch.equal(tensor, mixed()[name])
        assert tensor.dtype == mixed()[name].dtype


def test_strange_metadata_reaches_the_library_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    metadata = {'k\n\x00"\\': "\x1b[31m\u2028\u202eé🎨</script>", "": "", "empty": ""}
    write_tensors(path, {"a": torch.ones(1)}, metadata, with_hashes=False)
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata
    assert read_header(path).metadata == metadata


def test_reads_back_every_dtype_and_view(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    strided = torch.arange(12.0).reshape(3, 4).t()
    write_tensors(path, mixed() | {"strided": strided}, {})
    back = read_tensors(path, read_header(path))
    for name, tensor in (mixed() | {"strided": strided}).items():
        assert torch.equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape


def test_same_input_same_bytes_whatever_its_order(tmp_path: Path) -> None:
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    metadata = {"b": "2", "a": "1"}
    write_tensors(first, mixed(), metadata)
    write_tensors(second, dict(reversed(mixed().items())), dict(reversed(metadata.items())))
    assert first.read_bytes() == second.read_bytes()


def test_hashes_are_of_the_bytes_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    stale = {"sshs_legacy_hash": "e3b0c442", "sshs_model_hash": EMPTY_SHA256}
    write_tensors(path, mixed(), stale | {"modelspec.title": "x", "modelspec.hash_sha256": "0x0"})
    metadata = read_header(path).metadata
    independent = hashlib.sha256(data_of(path.read_bytes())).hexdigest()
    assert metadata["sshs_model_hash"] == independent
    assert metadata["modelspec.hash_sha256"] == "0x" + independent
    assert "sshs_legacy_hash" not in metadata  # the file has no byte at 1 MiB to hash


def test_metadata_does_not_enter_the_model_hash(tmp_path: Path) -> None:
    found = set()
    for index, metadata in enumerate(({}, {"a": "1"}, {"modelspec.title": "y" * 5_000})):
        path = tmp_path / f"{index}.safetensors"
        write_tensors(path, mixed(), metadata)
        found.add(read_header(path).metadata["sshs_model_hash"])
        assert ("modelspec.hash_sha256" in read_header(path).metadata) == (index == 2)
    assert len(found) == 1


@pytest.mark.parametrize("notes", [0, 1_200_000], ids=["in the data", "in the header"])
def test_legacy_hash_is_of_the_file_with_ss_metadata_only(tmp_path: Path, notes: int) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(700_000, generator=torch.Generator().manual_seed(0))}
    ss = {"ss_note": "n" * notes}
    write_tensors(path, tensors, ss | {"modelspec.title": "not part of it"})
    bare = save(tensors, ss)  # what the library would write
    expected = hashlib.sha256(bare[0x100000:0x110000]).hexdigest()[:8]
    assert read_header(path).metadata["sshs_legacy_hash"] == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_reading_names_the_tensor_that_is_not_finite(
    tmp_path: Path, dtype: torch.dtype, value: float
) -> None:
    path = tmp_path / "x.safetensors"
    bad = torch.ones(5, dtype=dtype)
    bad[3] = value
    largest = torch.full((4,), torch.finfo(dtype).max, dtype=dtype)
    write_tensors(path, {"fine": largest, "bad.one": bad}, {})
    with pytest.raises(AdapterFileError, match=r"x\.safetensors: tensor 'bad.one' holds NaN"):
        read_tensors(path, read_header(path))
    write_tensors(path, {"fine": largest}, {})
    assert torch.equal(read_tensors(path, read_header(path))["fine"], largest)


def test_a_file_that_shrinks_after_its_header_was_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, mixed(), {})
    header = read_header(path)
    os.truncate(path, header.file_bytes - 1)
    with pytest.raises(AdapterFileError, match="changed while"):
        read_tensors(path, header)


@pytest.mark.parametrize(
    "tensors",
    [{}, {"a": torch.ones(2, dtype=torch.int32)}, {"a": torch.ones(0)}],
    ids=["nothing", "integers", "empty"],
)
def test_refuses_to_write_what_it_would_not_read(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(InputError):
        write_tensors(tmp_path / "x.safetensors", tensors, {})
    assert list(tmp_path.iterdir()) == []


def test_refuses_metadata_over_the_limit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Shorten"):
        write_tensors(tmp_path / "x.safetensors", mixed(), {"k": "x" * (9 << 20)})


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, mixed(), {})
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lora_diffusion.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_tensors(path, {"other": torch.ones(1)}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_the_disk_garbles_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_diffusion.formats.hash.model_hash", lambda path: "0" * 64)
    with pytest.raises(OSError, match="differ from the bytes written"):
        write_tensors(tmp_path / "x.safetensors", mixed(), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_file_mode_follows_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "x.safetensors"
    before = os.umask(umask)
    try:
        write_tensors(path, mixed(), {})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
