"""Files that the browser hands over: streamed to disk within limits, found again by opaque id.

A file's own name is only told back, never used as a path. Everything is deleted when the studio
closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from lora_diffusion.errors import InputError, printable

PATH = "/studio/upload"
_GB = 1 << 30
_MAX_NAME = 200


@dataclass(frozen=True)
class Limits:
    """What one launch of the studio takes in.

    Attributes:
        file_bytes: of one file.
        total_bytes: of all that are kept at once.
        free_bytes: of the disk, which stay free.
        files: that are kept at once.
        at_once: uploads side by side.
        stall_seconds: without a byte, after which an upload is given up.
    """

    file_bytes: int = 8 * _GB
    total_bytes: int = 16 * _GB
    free_bytes: int = 2 * _GB
    files: int = 20_000
    at_once: int = 8
    stall_seconds: float = 20.0


@dataclass(frozen=True)
class Upload:
    """A file that was taken in: where it lies, and what it was called."""

    path: Path
    name: str
    size: int


class Uploads:
    """Takes files in; each gets an id that nobody can guess."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._folder: Path | None = None
        self._kept: dict[str, Upload] = {}
        self._bytes = 0  # kept, and of uploads on their way
        self._running = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept."""
        return not self._kept

    async def take(self, name: str, parts: AsyncIterator[bytes]) -> str:
        """Write the file to disk as it comes; returns its id.

        Raises:
            InputError: a limit is reached, or the sender stalled; nothing is left of the file.
            OSError: the disk refused.
        """
        limits = self.limits
        if self._running >= limits.at_once:
            raise InputError(f"{limits.at_once} files are on their way already. Wait for them.")
        if len(self._kept) >= limits.files:
            raise InputError(f"{limits.files:,} files are here already. Start the studio again.")
        picked = secrets.token_urlsafe(24)
        path = self._scratch() / picked
        size = 0
        self._running += 1
        try:
            with path.open("xb") as file:
                async for part in _steady(parts, limits.stall_seconds):
                    self._check(name, size + len(part), len(part), path)
                    size += len(part)
                    self._bytes += len(part)
                    await asyncio.to_thread(file.write, part)
        except BaseException:
            self._bytes -= size
            path.unlink(missing_ok=True)
            raise
        finally:
            self._running -= 1
        self._kept[picked] = Upload(path, printable(name, _MAX_NAME), size)
        return picked

    def find(self, picked: object) -> Upload:
        """The upload behind an id.

        Raises:
            InputError: there is none.
        """
        found = self._kept.get(picked) if isinstance(picked, str) else None
        if found is None:
            raise InputError("That upload is gone. Choose the file again.")
        return found

    def drop(self, picked: str) -> None:
        """Forget an upload and delete its file, if it is there."""
        found = self._kept.pop(picked, None)
        if found is not None:
            self._bytes -= found.size
            found.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete everything."""
        self._kept.clear()
        self._bytes = 0
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _check(self, name: str, size: int, more: int, path: Path) -> None:
        limits, shown = self.limits, printable(name, 80)
        if size > limits.file_bytes:
            raise InputError(
                f"{shown}: is larger than {_size(limits.file_bytes)}. Put it on this studio's "
                "computer and give its path."
            )
        if self._bytes + more > limits.total_bytes:
            raise InputError(
                f"{shown}: uploads together would pass {_size(limits.total_bytes)}. Start the "
                "studio again to clear them."
            )
        if shutil.disk_usage(path.parent).free - more < limits.free_bytes:
            raise InputError(
                f"{shown}: the disk would have less than {_size(limits.free_bytes)} free. Make "
                "room first."
            )

    def _scratch(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="lora-studio-uploads-"))
        return self._folder


async def _steady(parts: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    """The same parts; a sender that pauses longer than `seconds` is given up."""
    with contextlib.suppress(StopAsyncIteration):
        while True:
            try:
                yield await asyncio.wait_for(anext(parts), seconds)
            except TimeoutError:
                raise InputError("The upload stalled. Send the file again.") from None


def _size(count: int) -> str:
    return f"{count / _GB:g} GB" if count >= _GB else f"{count / 1e6:g} MB"
