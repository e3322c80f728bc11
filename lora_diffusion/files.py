"""Writing files so that a reader, a crash or a full disk never sees half of one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import psutil

# What a killed writer leaves: ours, which names its process, or the safetensors library's.
_REST = re.compile(r"\..+\.(\d+)\.tmp|\.tmp\w{6}", re.ASCII)


def replace_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a path beside `path`, flush that to disk, then rename it over `path`.

    Raises:
        OSError: the disk is full or not writable; its `filename` is `path`, which is as it was,
            and nothing is left over.
    """
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)
        beside.unlink(missing_ok=True)
        raise


def make_folder(folder: Path) -> None:
    """Make `folder`, and what lacks above it, so that it survives a power loss."""
    missing, above = [], folder
    while not above.exists():
        missing.append(above)
        above = above.parent
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sweep_rests(folder: Path) -> None:
    """Delete, in `folder` and below, what writers left that were killed.

    Files of other processes that are alive stay; the folder is one where no other process writes
    with the safetensors library.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            found = _REST.fullmatch(name)
            if found is None:
                continue
            process = int(found[1] or os.getpid())
            if process == os.getpid() or not psutil.pid_exists(process):
                Path(parent, name).unlink(missing_ok=True)


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
