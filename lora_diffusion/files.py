"""Writing files so that a reader, a crash or a full disk never sees half of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replace_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a path beside `path`, flush that to disk, then rename it over `path`.

    Raises:
        OSError: the disk is full or not writable; `path` is as it was, and nothing is left over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`text` as UTF-8 with plain newlines, atomically."""

    def write(target: Path) -> None:
        target.write_bytes(text.encode())

    replace_atomically(path, write)


def sync_folder(folder: Path) -> None:
    """Flush the folder's entries, so that a rename survives a power loss (POSIX only)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
