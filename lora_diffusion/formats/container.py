"""Tensors in and out of a safetensors file.

Writing is deterministic: the same tensors and metadata give the same bytes, in the order in which
the safetensors library would lay them out, so hashes agree with those other tools compute.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lora_diffusion.errors import InputError
from lora_diffusion.files import replace_atomically
from lora_diffusion.formats import hash as hashes
from lora_diffusion.formats.header import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    METADATA_KEY,
    Header,
    read_header,
)
from lora_diffusion.formats.raw import has_non_finite, read_entry, refuse_non_finite

MODEL_HASH_KEY = "sshs_model_hash"
LEGACY_HASH_KEY = "sshs_legacy_hash"
MODELSPEC_HASH_KEY = "modelspec.hash_sha256"

_TORCH_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
}
# What adapters are written in; widest first, the library's order.
_WRITTEN = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}
# The dtypes of adapter files by the names that people use; the keys are `formats.DTYPES`.
FLOATS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_ORDER = {dtype: index for index, dtype in enumerate(_WRITTEN)}
# How the safetensors library words a failed write.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def read_tensors(path: str | Path, header: Header) -> dict[str, Tensor]:
    """Every tensor of the file, on the CPU, in the dtype of the file, each in its own memory.

    Args:
        path: the file.
        header: what `read_header` said about it.

    Raises:
        AdapterFileError: a tensor holds NaN or infinity, or the file changed since.
        OSError: the file cannot be read.
    """
    with Path(path).expanduser().open("rb") as file:
        return {name: read_tensor(file, header, name) for name in header.tensors}


def read_tensor(file: BinaryIO, header: Header, name: str) -> Tensor:
    """One tensor of the opened `file`, as `read_tensors` reads them.

    Raises:
        AdapterFileError: it holds NaN or infinity, or the file changed since.
        OSError: the file cannot be read.
    """
    entry = header.tensors[name]
    data = read_entry(file, header, entry)
    if has_non_finite(data, entry.dtype):
        refuse_non_finite(header, name)
    return torch.frombuffer(data, dtype=_TORCH_DTYPES[entry.dtype]).reshape(entry.shape)


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    with_hashes: bool = True,
) -> None:
    """Write a safetensors file beside `path`, check it, and rename it into place.

    Args:
        tensors: floating-point tensors (fp64, fp32, bf16, fp16) by name; 0-d is fine.
        metadata: header strings. With `with_hashes`, `sshs_model_hash`, `sshs_legacy_hash` (only
            where it exists: files over 1 MiB) and, beside other `modelspec.` keys,
            `modelspec.hash_sha256` are set from the bytes written, over whatever was there.

    Raises:
        InputError: nothing to write, or a tensor of another dtype.
        OSError: the disk is full or not writable; `path` is as it was.
    """
    path = Path(path)
    ordered = _library_order(tensors)
    data_hash = hashes.sha256_of(_chunks(ordered))
    final = dict(metadata)
    if with_hashes:
        for stale in (MODEL_HASH_KEY, LEGACY_HASH_KEY, MODELSPEC_HASH_KEY):
            final.pop(stale, None)
        final |= _hash_metadata(ordered, final, data_hash)
    header = _header_bytes(ordered, final)
    if len(header) > MAX_HEADER_BYTES:
        raise InputError(
            f"The metadata makes a header of {len(header)} bytes; readers take {MAX_HEADER_BYTES} "
            "at most. Shorten it."
        )

    def write(target: Path) -> None:
        with target.open("wb") as file:
            file.write(header)
            for chunk in _chunks(ordered):
                file.write(chunk)
        read_header(target)
        if hashes.model_hash(target) != data_hash:
            raise OSError(errno.EIO, "the bytes on disk differ from the bytes written")

    replace_atomically(path, write)


def write_any_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file of tensors of any dtype with the library, atomically.

    Raises:
        OSError: the disk is full or not writable; `path` is as it was.
    """

    def write(target: Path) -> None:
        try:
            save_file(tensors, target, metadata=metadata)
        except SafetensorError as error:
            number = _OS_ERROR.search(str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error

    replace_atomically(path, write)


def _hash_metadata(
    ordered: Mapping[str, Tensor], metadata: Mapping[str, str], data_hash: str
) -> dict[str, str]:
    found = {MODEL_HASH_KEY: data_hash}
    only_ss = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    legacy = hashes.legacy_hash(_header_bytes(ordered, only_ss), _chunks(ordered))
    if legacy is not None:
        found[LEGACY_HASH_KEY] = legacy
    if any(key.startswith("modelspec.") for key in metadata):
        found[MODELSPEC_HASH_KEY] = "0x" + data_hash
    return found


def _library_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors: wider dtypes first, then by name."""
    if not tensors:
        raise InputError("There are no tensors to write. Train or load an adapter first.")
    for name, tensor in tensors.items():
        if tensor.dtype not in _WRITTEN or tensor.numel() == 0:
            raise InputError(
                f"Tensor '{name}' ({tensor.dtype}, shape {list(tensor.shape)}) cannot be written. "
                "Adapters hold fp64, fp32, bf16 or fp16 numbers."
            )
    names = sorted(tensors, key=lambda name: (_ORDER[tensors[name].dtype], name.encode()))
    return {name: tensors[name].detach().cpu().contiguous() for name in names}


def _header_bytes(ordered: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON, padded with spaces to a multiple of eight bytes."""
    document: dict[str, object] = {METADATA_KEY: dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name, tensor in ordered.items():
        end = position + tensor.numel() * tensor.itemsize
        document[name] = {
            "dtype": _WRITTEN[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _chunks(ordered: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The tensors' bytes, one tensor at a time, without copying."""
    for tensor in ordered.values():
        yield memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
