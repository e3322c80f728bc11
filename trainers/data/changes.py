"""Changes to a dataset's files that can be undone to the byte. No torch.

A change is a list of steps: write a file, or move one. Before the first step is taken, everything
that it would overwrite lies in `.studio/undo` within the folder, together with the list, so that a
change that a crash cut short is undone like a whole one. What lies there is deleted by the undo
that puts it back, and by `prune` once it is old. The folder's name begins with a dot: no training
looks into it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import write_text

HIDDEN = ".studio"
FREE_BYTES = 200_000_000  # of the disk, which stay free
KEPT_DAYS = 30
KEPT_BYTES = 2_000_000_000  # of files as they were before, over all changes
SAFE_DAYS = 1  # changes so young are never pruned: a page that is open may still take them back
_UNDO = "undo"
_WAIT_S = 10
_FLUSHED_FILES = 50  # up to so many are flushed to disk one by one, more all at once


@dataclass(frozen=True)
class Write:
    """A file, by its name within the folder with `/`, is to have this content."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Move:
    """A file is to have another name; nothing may be there yet."""

    name: str
    to: str


Step = Write | Move


@dataclass(frozen=True)
class Change:
    """A change that was made.

    Attributes:
        number: counts up within the folder.
        title: what was done, such as `Replaced 'cat' in 31 captions`.
        at: when, as ISO 8601 in UTC.
        names: files that it wrote or moved.
    """

    number: int
    title: str
    at: str
    names: tuple[str, ...]


class Changes:
    """The changes of one folder, the newest last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records = folder / HIDDEN / _UNDO

    def made(self) -> list[Change]:
        """Every change that can be undone."""
        return [_change(number, record) for number, record in self._all()]

    def last(self) -> Change | None:
        """The change that `undo` would take back."""
        numbers = self._numbers()
        return _change(numbers[-1], self._read(numbers[-1])) if numbers else None

    def make(self, title: str, steps: Sequence[Step]) -> Change:
        """Take all steps, or none: where one fails, those before it are taken back.

        Raises:
            InputError: a name leads out of the folder or over a link, a file to move is gone, its
                new name is taken, the disk is full or read-only; or no step is given.
        """
        if not steps:
            raise InputError("Nothing would change.")
        with self._locked(), self._told():
            planned = [self._planned(step) for step in steps]
            self._refuse_full_disk(steps)
            numbers = self._numbers()
            number = numbers[-1] + 1 if numbers else 1
            record = self._keep(number, title, planned)
            try:
                self._take(steps)
            except (InputError, OSError):
                self._take_back(number, record)
                raise
            return _change(number, record)

    def undo(self) -> Change:
        """Take back the newest change.

        Raises:
            InputError: there is none; or a file of it was changed since, and is left alone with
                all others.
        """
        with self._locked(), self._told():
            numbers = self._numbers()
            if not numbers:
                raise InputError("There is nothing to undo.")
            record = self._read(numbers[-1])
            self._take_back(numbers[-1], record)
            return _change(numbers[-1], record)

    def prune(self) -> int:
        """Forget the oldest changes: those over `KEPT_DAYS` old, and those beyond `KEPT_BYTES`.

        The newest change stays, and all of the last `SAFE_DAYS`.

        Returns:
            How many were forgotten.

        Raises:
            InputError: another program is at work, or the folder can't be written.
        """
        if not self._records.is_dir():
            return 0
        with self._locked(), self._told():
            numbers = self._numbers()
            saved = {n: self._saved(n).stat().st_size for n in numbers if self._saved(n).exists()}
            held, forgotten = sum(saved.values()), 0
            for number in numbers[:-1]:
                days = (time.time() - self._record(number).stat().st_mtime) / 86_400
                if days <= SAFE_DAYS or (days <= KEPT_DAYS and held <= KEPT_BYTES):
                    break
                self._record(number).unlink()  # first: without it the bytes mean nothing
                self._saved(number).unlink(missing_ok=True)
                held, forgotten = held - saved.get(number, 0), forgotten + 1
            return forgotten

    # ---- records ----

    def _numbers(self) -> list[int]:
        try:
            names = [path.name for path in self._records.iterdir()]
        except OSError:
            return []
        return sorted(int(n[:-5]) for n in names if n.endswith(".json") and n[:-5].isdecimal())

    def _all(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in self._numbers():
            yield number, self._read(number)

    def _read(self, number: int) -> dict[str, Any]:
        path = self._record(number)
        try:
            record = json.loads(path.read_bytes())
            if not isinstance(record, dict) or not isinstance(record["steps"], list):
                raise ValueError
        except (OSError, ValueError, KeyError):
            raise InputError(
                f"{printable(path)}: can't be read, so that change can't be undone. Restore it "
                "from a backup, or remove it."
            ) from None
        return record

    def _record(self, number: int) -> Path:
        return self._records / f"{number:06d}.json"

    def _saved(self, number: int) -> Path:
        return self._records / f"{number:06d}.bin"

    def _keep(self, number: int, title: str, planned: list[dict[str, Any]]) -> dict[str, Any]:
        """Put what will be overwritten, and the list, on the disk for good."""
        self._records.mkdir(parents=True, exist_ok=True)
        with self._saved(number).open("wb") as saved:
            for step in planned:
                if step.get("before") is not None:
                    path = self._path(step["write"])
                    step["at"] = saved.tell()
                    with path.open("rb") as file:
                        shutil.copyfileobj(file, saved)
                    step["size"] = saved.tell() - step["at"]
            saved.flush()
            os.fsync(saved.fileno())
        at = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"title": title, "made": at, "steps": planned}
        write_text(self._record(number), json.dumps(record))
        return record

    # ---- steps ----

    def _planned(self, step: Step) -> dict[str, Any]:
        path = self._path(step.name)
        if isinstance(step, Move):
            target = self._path(step.to)
            if not path.is_file():
                raise InputError(f"{printable(step.name)}: is gone. Open the folder again.")
            if os.path.lexists(target):
                raise InputError(f"{printable(step.to)}: is there already. Rename one of them.")
            return {"move": step.name, "to": step.to}
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise InputError(
                f"{printable(step.name)}: is a link or a folder, which is not written through. "
                "Put a copy of the file in its place."
            )
        before = _digest(path)
        return {"write": step.name, "before": before, "after": _sha256(step.content)}

    def _take(self, steps: Sequence[Step]) -> None:
        one_by_one = len(steps) <= _FLUSHED_FILES
        for step in steps:
            path = self._path(step.name)
            if isinstance(step, Move):
                target = self._path(step.to)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                _replace(path, step.content, flush=one_by_one)
        if not one_by_one and hasattr(os, "sync"):
            os.sync()

    def _take_back(self, number: int, record: dict[str, Any]) -> None:
        steps = [step for step in reversed(record["steps"]) if not self._is_as_before(step)]
        changed = [step for step in steps if not self._is_as_after(step)]
        if changed:
            name = changed[0].get("write") or changed[0].get("to")
            raise InputError(
                f"{printable(name)}: was changed since by another program, so this is not undone "
                "and nothing was touched. What was before is kept in "
                f"{HIDDEN}/{_UNDO}/{self._saved(number).name}."
            )
        with self._saved(number).open("rb") as saved:
            for step in steps:
                self._restore(step, saved, flush=len(steps) <= _FLUSHED_FILES)
        if len(steps) > _FLUSHED_FILES and hasattr(os, "sync"):
            os.sync()
        self._record(number).unlink()
        self._saved(number).unlink()

    def _restore(self, step: dict[str, Any], saved: BinaryIO, *, flush: bool) -> None:
        if "move" in step:
            source = self._path(step["move"])
            source.parent.mkdir(parents=True, exist_ok=True)
            self._path(step["to"]).rename(source)
        elif step["before"] is None:
            self._path(step["write"]).unlink()
        else:
            saved.seek(step["at"])
            _replace(self._path(step["write"]), saved.read(step["size"]), flush=flush)

    def _is_as_before(self, step: dict[str, Any]) -> bool:
        if "move" in step:
            return self._path(step["move"]).exists() and not self._path(step["to"]).exists()
        return bool(_digest(self._path(step["write"])) == step["before"])

    def _is_as_after(self, step: dict[str, Any]) -> bool:
        if "move" in step:
            return self._path(step["to"]).exists() and not self._path(step["move"]).exists()
        return bool(_digest(self._path(step["write"])) == step["after"])

    # ---- guards ----

    def _path(self, name: str) -> Path:
        """A file within the folder; names that lead elsewhere are refused."""
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
            raise InputError(f"{printable(name)}: is no file of this folder.")
        return self._folder / name

    def _refuse_full_disk(self, steps: Sequence[Step]) -> None:
        needed = FREE_BYTES
        for step in steps:
            if isinstance(step, Write):
                path = self._path(step.name)
                needed += len(step.content) + (path.stat().st_size if path.exists() else 0)
        if shutil.disk_usage(self._folder).free < needed:
            raise InputError(
                f"{printable(self._folder)}: the disk is nearly full, so nothing was changed. Free "
                "some space first."
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One change at a time, whichever program makes it."""
        with self._told():
            (self._folder / HIDDEN).mkdir(exist_ok=True)
            lock = FileLock(self._folder / HIDDEN / "lock", timeout=_WAIT_S)
            try:
                lock.acquire()
            except Timeout:
                raise InputError(
                    f"{printable(self._folder)}: another program changes it right now. Try again "
                    "in a moment."
                ) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = printable(error.filename or self._folder)
            raise InputError(
                f"{where}: can't be changed ({printable(error.strerror or error)}). Check your "
                "rights and the free space; nothing is lost."
            ) from None


def _change(number: int, record: dict[str, Any]) -> Change:
    names = [str(step.get("write") or step.get("move")) for step in record["steps"]]
    return Change(number, str(record["title"]), str(record["made"]), tuple(names))


def _replace(path: Path, content: bytes, *, flush: bool) -> None:
    """Write beside, then rename, so that no reader sees half of a file."""
    beside = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _digest(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
