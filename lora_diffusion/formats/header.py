"""A strict reader of a safetensors header, run before anything else touches a file. No torch.

The safetensors library takes several things that a hostile or broken file may hold: duplicate
names, shapes such as `[0, 2**40]`, ranks in the thousands, names made of escape sequences,
hundreds of thousands of empty tensors. This parser refuses them, with work and memory bounded by
`MAX_HEADER_BYTES`; what it passes, the tensors can be cut out of by byte range alone.

Format: u64 little-endian N, N bytes of JSON `{name: {dtype, shape, data_offsets}}` plus the
optional `__metadata__` (string to string), then the data, without gaps.
Source: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lora_diffusion.errors import AdapterFileError, printable

MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 20_000
MAX_DIMS = 8
LENGTH_BYTES = 8  # the u64 before the JSON
METADATA_KEY = "__metadata__"

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}

# `<s1>` is how an early trainer named the embeddings in its files.
_NAME = re.compile(r"[A-Za-z0-9_.:/*+\-]{1,400}|<[A-Za-z0-9_\-]{1,64}>")
_ENTRY_FIELDS = {"dtype", "shape", "data_offsets"}
_MAX_INTEGER_DIGITS = 18

# What people rename to .safetensors, by how it starts.
_OTHER_FILES: tuple[tuple[bytes, str, str], ...] = (
    (
        b"PK\x03\x04",
        "a zip archive, as PyTorch writes .ckpt and .pt files (pickle inside)",
        "Pickle can run code on loading and is refused; get the .safetensors version.",
    ),
    (
        b"\x80",
        "a Python pickle (an old .ckpt or .pt file)",
        "Pickle can run code on loading and is refused; get the .safetensors version.",
    ),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself",
        "Run 'git lfs pull', or download the file.",
    ),
    (b"<", "a web page", "The download failed or asked for a login; download the file again."),
    (b"\x89PNG", "a PNG picture", "Give the .safetensors file."),
    (b"\xff\xd8\xff", "a JPEG picture", "Give the .safetensors file."),
    (b"GGUF", "a GGUF model", "Give a .safetensors LoRA."),
)


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies.

    Attributes:
        dtype: safetensors' name of it, a key of `ITEM_BYTES`.
        shape: its dimensions; `()` is a scalar.
        start, end: byte range, counted from the end of the header.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        return (self.end - self.start) // ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Header:
    """The checked header of one file.

    Attributes:
        path: the file.
        tensors: name -> entry, in the order of the bytes.
        metadata: `__metadata__`, empty if the file has none. Untrusted text.
        header_bytes: length of the JSON, without the eight bytes before it.
        file_bytes: size of the whole file.
    """

    path: Path
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    header_bytes: int
    file_bytes: int

    @property
    def data_start(self) -> int:
        """Offset in the file of the first tensor byte."""
        return LENGTH_BYTES + self.header_bytes

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.tensors.items()}

    def start_with(self, metadata: Mapping[str, str]) -> bytes:
        """The bytes before the tensors of a file with these tensors and other metadata."""
        document: dict[str, object] = {METADATA_KEY: dict(metadata)} if metadata else {}
        for name, entry in self.tensors.items():
            document[name] = {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "data_offsets": [entry.start, entry.end],
            }
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(LENGTH_BYTES, "little") + text


def refuse(path: str | Path, reason: str, fix: str = "") -> NoReturn:
    """Raise `AdapterFileError` in the words every format shares: file, reason, fix."""
    message = f"{printable(Path(path).name)}: {reason}."
    raise AdapterFileError(f"{message} {fix}" if fix else message)


def read_header(path: str | Path) -> Header:
    """Parse and check the header of the safetensors file `path`; no tensor is read.

    Raises:
        AdapterFileError: the file is missing, is something else, or breaks a rule of the format
            or a limit of this reader. The message names the file, the cause and the fix.
    """
    path = Path(path).expanduser()
    text, header_bytes, file_bytes = _header_text(path)
    document = _parse(path, text)
    metadata = _checked_metadata(path, document.pop(METADATA_KEY, {}))
    if len(document) > MAX_TENSORS:
        refuse(path, f"it lists {len(document)} tensors, more than the {MAX_TENSORS} allowed")
    tensors = {name: _checked_entry(path, name, entry) for name, entry in document.items()}
    data_bytes = file_bytes - LENGTH_BYTES - header_bytes
    return Header(
        path=path,
        tensors=_in_byte_order(path, tensors, data_bytes),
        metadata=metadata,
        header_bytes=header_bytes,
        file_bytes=file_bytes,
    )


def _header_text(path: Path) -> tuple[str, int, int]:
    """The JSON text, its length in bytes, and the size of the file."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            refuse(path, f"it is {what}", "Give one .safetensors file.")
        with path.open("rb") as file:
            start = file.read(LENGTH_BYTES + 32)
            length = int.from_bytes(start[:LENGTH_BYTES], "little")
            _check_start(path, start, length, status.st_size)
            file.seek(LENGTH_BYTES)
            raw = file.read(length)
    except FileNotFoundError:
        refuse(path, "there is no such file", "Check the path.")
    except (OSError, ValueError) as error:
        if isinstance(error, AdapterFileError):
            raise
        refuse(path, f"it cannot be read ({printable(error)})", "Check the path and permissions.")
    if len(raw) != length:
        refuse(path, "it ends inside its header", "Download or copy it again.")
    try:
        return raw.decode("utf-8"), length, status.st_size
    except UnicodeDecodeError:
        refuse(path, "its header is not UTF-8 text", "Download it again, or ask its author.")


def _check_start(path: Path, start: bytes, length: int, file_bytes: int) -> None:
    """Refuse what is no safetensors file, by its size and first bytes."""
    looks_right = start[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"
    if not looks_right or length > MAX_HEADER_BYTES:
        for magic, what, fix in _OTHER_FILES:
            if start.startswith(magic):
                refuse(path, f"it is {what}, not a safetensors file", fix)
    if file_bytes < LENGTH_BYTES + 2:
        refuse(
            path, f"it has {file_bytes} bytes, too few for a safetensors file", "Download it again."
        )
    if looks_right and length > MAX_HEADER_BYTES:
        refuse(
            path,
            f"its header says it is {length} bytes long, more than the {MAX_HEADER_BYTES} allowed",
            "It is broken or made to exhaust memory.",
        )
    if not looks_right:
        refuse(path, "it is not a safetensors file", "Give a .safetensors file.")
    if length > file_bytes - LENGTH_BYTES:
        refuse(
            path,
            f"it is cut short: the header alone needs {length} bytes",
            "Download or copy it again.",
        )


def _parse(path: Path, text: str) -> dict[str, Any]:
    """The header as a dict, with work bounded while parsing and duplicate names refused."""
    objects = 0

    def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal objects
        objects += 1
        if objects > MAX_TENSORS + 2:
            refuse(path, f"it lists more than the {MAX_TENSORS} tensors allowed")
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
            refuse(path, f"its header lists '{printable(twice)}' twice", "Ask its author.")
        return found

    def whole_number(digits: str) -> int:
        if len(digits) > _MAX_INTEGER_DIGITS:
            refuse(path, "its header holds an absurdly large number", "It is broken or hostile.")
        return int(digits)

    def no_fraction(digits: str) -> NoReturn:
        refuse(path, f"its header holds the number {printable(digits, 20)} where none belongs")

    try:
        document = json.loads(
            text,
            object_pairs_hook=unique_pairs,
            parse_int=whole_number,
            parse_float=no_fraction,
            parse_constant=no_fraction,
        )
    except AdapterFileError:
        raise
    except (ValueError, RecursionError):
        refuse(path, "its header is not valid JSON", "Download it again, or ask its author.")
    if not isinstance(document, dict):
        refuse(path, "its header is not a JSON object", "Download it again, or ask its author.")
    return document


def _checked_metadata(path: Path, metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict):
        refuse(path, "its metadata is not a table of strings", "Ask its author.")
    for key, value in metadata.items():
        if not isinstance(value, str):
            refuse(path, f"its metadata '{printable(key, 60)}' is not a string", "Ask its author.")
        try:
            key.encode()
            value.encode()
        except UnicodeEncodeError:
            refuse(path, f"its metadata '{printable(key, 60)}' is not valid Unicode")
    return metadata


def _checked_entry(path: Path, name: str, entry: object) -> TensorEntry:
    """One tensor's record, each field of the right type, and shape times item size = range."""
    if not _NAME.fullmatch(name):
        refuse(path, f"the tensor name '{printable(name, 80)}' holds characters no adapter uses")
    if not isinstance(entry, dict) or set(entry) != _ENTRY_FIELDS:
        refuse(path, f"tensor '{name}' has no valid dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        refuse(path, f"tensor '{name}' has the unknown dtype '{printable(dtype, 40)}'")
    if not _all_integers(shape):
        refuse(path, f"tensor '{name}' has a shape that is not a list of whole numbers")
    if len(shape) > MAX_DIMS:
        refuse(path, f"tensor '{name}' has {len(shape)} dimensions, more than {MAX_DIMS}")
    if not _all_integers(offsets) or len(offsets) != 2:
        refuse(path, f"tensor '{name}' has no valid byte range")
    # Some trainers mark a checkpoint with an empty tensor: `v_pred`, `ztsnr`, of shape [0].
    if min(shape, default=1) < 1 and shape != [0]:
        refuse(path, f"tensor '{name}' is empty: its shape is {shape}")
    start, end = offsets
    elements = 1
    for size in shape:
        elements *= size
    if end - start != elements * ITEM_BYTES[dtype]:
        refuse(
            path,
            f"tensor '{name}' of shape {shape} and dtype {dtype} needs "
            f"{elements * ITEM_BYTES[dtype]} bytes but its byte range has {end - start}",
        )
    return TensorEntry(dtype, tuple(shape), start, end)


def _all_integers(value: object) -> bool:
    """A list of non-negative ints; `true` is an int to Python and is not one here."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _in_byte_order(
    path: Path, tensors: Mapping[str, TensorEntry], data_bytes: int
) -> dict[str, TensorEntry]:
    """`tensors` sorted by position; together they fill the data exactly."""
    ordered = sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end))
    position = 0
    for name, entry in ordered:
        if entry.start != position:
            what = "overlaps the one before it" if entry.start < position else "leaves a gap"
            refuse(path, f"the byte range of tensor '{name}' {what}", "It is broken or hostile.")
        position = entry.end
    if position > data_bytes:
        refuse(
            path,
            f"it is cut short: its tensors need {position} bytes and it holds {data_bytes}",
            "Download or copy it again.",
        )
    if position < data_bytes:
        refuse(path, f"{data_bytes - position} bytes after its last tensor belong to nothing")
    return dict(ordered)
