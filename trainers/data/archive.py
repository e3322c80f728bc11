"""The pictures and captions within a zip, safely: counted bytes, regular files, flat names.

No torch. A zip is a stranger's: its names may lead out of the folder, its entries may be links, and
its few kilobytes may unpack to terabytes.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from lora_diffusion.errors import InputError, printable

MAX_ENTRIES = 20_000
MAX_DIRECTORY_BYTES = 16 << 20
_END = b"PK\x05\x06"
_END_64 = b"PK\x06\x07"
_END_BYTES = 22
_MAX_COMMENT = 65_535
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_BLOCK = 1 << 20
# What the library raises of damaged and encrypted ones; UnicodeDecodeError is a ValueError.
_BROKEN = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError,
    NotImplementedError, RuntimeError,
)  # fmt: skip

# (name within the zip, its bytes as a stream)
Entry = tuple[str, BinaryIO]


def names(path: Path, wanted: Callable[[str], bool]) -> list[str]:
    """The names of the regular files in a zip that `wanted` takes.

    Raises:
        InputError: no zip, damaged, or with an absurd list of files.
    """
    with _opened(path) as archive:
        return [info.filename for info in _files(archive, wanted)]


def unpack(
    path: Path, wanted: Callable[[str], bool], place: Callable[[str], Path | None], max_bytes: int
) -> int:
    """Write the files of a zip that `wanted` takes, each to where `place` says; their bytes.

    Bytes are counted as they come out, whatever the zip claims.

    Raises:
        InputError: damaged, encrypted, or over `max_bytes` in all.
        OSError: the disk refused.
    """
    total = 0
    with _opened(path) as archive:
        for info in _files(archive, wanted):
            target = place(info.filename)
            if target is None:
                continue
            try:
                with archive.open(info) as source, target.open("xb") as out:
                    while block := source.read(_BLOCK):
                        total += len(block)
                        if total > max_bytes:
                            raise InputError(
                                f"{printable(path.name)}: unpacks to more than "
                                f"{max_bytes / 1e9:.3g} GB. Unpack it yourself and open the folder."
                            )
                        out.write(block)
            except InputError:
                raise
            except _BROKEN:
                raise InputError(
                    f"{printable(info.filename)}: is damaged or encrypted within the zip. Pack it "
                    "again."
                ) from None
    return total


def _files(archive: zipfile.ZipFile, wanted: Callable[[str], bool]) -> Iterator[zipfile.ZipInfo]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if not info.filename or info.is_dir() or kind not in (0, stat.S_IFREG):
            continue
        if info.compress_type in _METHODS and wanted(info.filename):
            yield info


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        _check_directory(path)
        return zipfile.ZipFile(path)
    except InputError:
        raise
    except _BROKEN:
        raise InputError("This is no zip that can be read. Pack the pictures again.") from None


def _check_directory(path: Path) -> None:
    """Refuse a list of files that would fill the memory, before it is read."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _END_BYTES - _MAX_COMMENT))
        tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_BYTES:
        raise zipfile.BadZipFile
    entries, directory = struct.unpack_from("<HI", tail, at + 10)
    if _END_64 in tail or entries > MAX_ENTRIES or directory > MAX_DIRECTORY_BYTES:
        raise InputError(
            f"This zip lists more than {MAX_ENTRIES:,} files. Unpack it and open the folder."
        )
