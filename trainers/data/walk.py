"""Every file of a dataset's folder, in bounded steps: loops, junk and run folders are survived.

No torch, and no file is opened.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from lora_diffusion.errors import InputError, printable
from trainers.data.problems import Problem
from trainers.data.source import Source, TarMember

MAX_ENTRIES = 500_000
MAX_DEPTH = 16
# What operating systems, file servers and archivers leave behind.
_JUNK = frozenset(
    {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"}
)
_RUN_MARK = "events.jsonl"


@dataclass(frozen=True, slots=True)
class Stat:
    """What tells a changed file without opening it."""

    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Tree:
    """The files under a folder.

    Attributes:
        root: the folder.
        files: name relative to the root, with `/` -> its size and time, in order of name.
        problems: folders and links that could not be followed.
        members: those of `files` that lie within a tar.
    """

    root: Path
    files: dict[str, Stat]
    problems: list[Problem] = field(default_factory=list)
    members: dict[str, TarMember] = field(default_factory=dict)
    _sources: dict[str, Source] = field(default_factory=dict, repr=False, compare=False)

    def source(self, name: str) -> Source:
        """Where the bytes of one of `files` are."""
        source = self._sources.get(name)
        if source is None:  # making a path is slow, and captions' are asked for twice
            source = self._sources[name] = self.members.get(name) or self.root / name
        return source


def walk(root: Path, *, nested: bool = True, without: Collection[Path] = ()) -> Tree:
    """List the files under `root`.

    Hidden files, what operating systems leave behind and the folders of training runs are left
    out. Links are followed, each folder is entered once.

    Args:
        nested: also enter folders within it.
        without: folders to leave out.

    Raises:
        InputError: no such folder, unreadable, or with an absurd number of files.
    """
    tree = Tree(root, {})
    seen = {identity for identity in map(_identity, without) if identity}
    seen.discard(_identity(root))
    found: list[tuple[str, Stat]] = []
    entries = 0
    waiting = [(root, "", 0)]
    while waiting:
        folder, prefix, depth = waiting.pop()
        identity = _identity(folder)
        if identity in seen:
            continue  # a link back, or left out
        if identity:
            seen.add(identity)
        files, folders = _list(folder, prefix, tree)
        entries += len(files) + len(folders)
        if entries > MAX_ENTRIES:
            raise InputError(
                f"{printable(root)}: holds more than {MAX_ENTRIES:,} files. Choose the folder that "
                "holds only the training pictures."
            )
        if depth and any(entry.name == _RUN_MARK for entry in files):
            continue
        found += _stats(files, prefix, tree)
        if not nested:
            continue
        if depth < MAX_DEPTH:
            waiting += [
                (Path(entry.path), f"{prefix}{entry.name}/", depth + 1) for entry in folders
            ]
        elif folders:
            tree.problems.append(
                Problem(
                    prefix,
                    "warning",
                    "too-deep",
                    f"lies {MAX_DEPTH} folders deep, and those within it are left out",
                    "Move their pictures up.",
                )
            )
    tree.files.update(sorted(found))
    return tree


def is_left_out(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left behind by a system."""
    return name.startswith(".") or name.lower() in _JUNK


def _list(
    folder: Path, prefix: str, tree: Tree
) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
    """(files, folders) of one folder; the root must be readable, others are told."""
    files: list[os.DirEntry[str]] = []
    folders: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_left_out(entry.name):
                    continue
                (folders if _is_folder(entry) else files).append(entry)
                if len(files) + len(folders) > MAX_ENTRIES:
                    break
    except (FileNotFoundError, NotADirectoryError, ValueError, OSError) as error:
        if prefix:
            reason = printable(getattr(error, "strerror", None) or error)
            problem = Problem(
                prefix,
                "warning",
                "unreadable-folder",
                f"can't be read ({reason}), so its pictures are left out",
                "Give yourself the right to read it, or remove it.",
            )
            tree.problems.append(problem)
        else:
            raise InputError(_why_no_folder(folder, error)) from None
    return files, folders


def _why_no_folder(folder: Path, error: Exception) -> str:
    name = printable(folder)
    if isinstance(error, FileNotFoundError | ValueError):
        return f"{name}: there is no such folder. Check data.folder."
    if isinstance(error, NotADirectoryError):
        return f"{name}: is a file. data.folder takes a folder of pictures."
    return f"{name}: can't be read ({printable(getattr(error, 'strerror', error))})."


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself


def _stats(files: list[os.DirEntry[str]], prefix: str, tree: Tree) -> list[tuple[str, Stat]]:
    found = []
    for entry in files:
        name = prefix + entry.name
        try:
            if entry.is_file():
                stat = entry.stat()
                found.append((name, Stat(stat.st_size, stat.st_mtime_ns)))
                continue
            cause = "is no file" if os.path.lexists(entry.path) else "has vanished"
            if entry.is_symlink():
                cause = "is a link to nowhere"
        except OSError as error:
            cause = f"can't be looked at ({printable(error.strerror)})"
        tree.problems.append(
            Problem(name, "warning", "no-file", cause, "Put the file in its place, or remove it.")
        )
    return found


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        stat = folder.stat()
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino
