"""Numbers straight from a file's bytes, with numpy only: finite scan and single values."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from lora_diffusion.formats.header import ITEM_BYTES, Header, TensorEntry, refuse

_SCAN_BYTES = 8 << 20

# dtype -> (unsigned type of the same width, mask of the exponent bits); all ones = NaN or infinity.
_EXPONENTS: dict[str, tuple[Any, int]] = {
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F32": (np.uint32, 0x7F80_0000),
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F8_E5M2": (np.uint8, 0x7C),
    "F8_E4M3": (np.uint8, 0x7F),  # has no infinity, and NaN only with every bit set
}
_NUMPY: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
}


def has_non_finite(data: bytes | bytearray | memoryview, dtype: str) -> bool:
    """Whether any of the little-endian `dtype` numbers in `data` is NaN or infinite."""
    if dtype not in _EXPONENTS:
        return False
    kind, mask = _EXPONENTS[dtype]
    bits = np.frombuffer(data, dtype=kind)
    return bool(((bits & kind(mask)) == kind(mask)).any())


def read_entry(file: BinaryIO, header: Header, entry: TensorEntry) -> bytearray:
    """The bytes of one tensor, in a buffer of their own.

    Raises:
        AdapterFileError: the file has shrunk since its header was read.
    """
    file.seek(header.data_start + entry.start)
    data = bytearray(entry.end - entry.start)
    if file.readinto(data) != len(data):  # type: ignore[attr-defined]
        refuse(header.path, "it changed while it was read", "Try again.")
    return data


def refuse_non_finite(header: Header, name: str) -> None:
    refuse(
        header.path,
        f"tensor '{name}' holds NaN or infinite numbers",
        "The training that made it diverged, or the file is damaged.",
    )


def scan_finite(header: Header) -> None:
    """Read every number of the file, in bounded memory.

    Raises:
        AdapterFileError: a tensor holds NaN or infinity; the message names it.
        OSError: the file cannot be read.
    """
    with header.path.open("rb") as file:
        for name, entry in header.tensors.items():
            file.seek(header.data_start + entry.start)
            left = entry.end - entry.start
            while left:
                chunk = file.read(min(left, _SCAN_BYTES))
                if not chunk:
                    refuse(header.path, "it changed while it was read", "Try again.")
                if has_non_finite(chunk, entry.dtype):
                    refuse_non_finite(header, name)
                left -= len(chunk)


def read_number(file: BinaryIO, header: Header, name: str) -> float:
    """The single value of the one-element tensor `name`.

    Raises:
        AdapterFileError: its dtype is not one that states a number.
    """
    entry = header.tensors[name]
    data = bytes(read_entry(file, header, entry)[: ITEM_BYTES[entry.dtype]])
    if entry.dtype == "BF16":  # the upper half of an fp32
        return float(np.frombuffer(b"\0\0" + data, np.float32)[0])
    if entry.dtype not in _NUMPY:
        refuse(header.path, f"tensor '{name}' states a number as {entry.dtype}")
    return float(np.frombuffer(data, _NUMPY[entry.dtype])[0])
