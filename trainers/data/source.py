"""Where a picture's bytes are: a file of its own, or a member of a tar shard. No torch."""

from __future__ import annotations

import errno
import io
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import Buffer


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file within an uncompressed tar; it answers what a `Path` to a file would.

    Attributes:
        shard: the tar.
        inner: the name within it, with `/`; a label only, never a path on this machine.
        offset: where its bytes begin in the shard.
        size: how many bytes it has.
    """

    shard: Path
    inner: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        return PurePosixPath(self.inner).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.inner).suffix

    @property
    def stem(self) -> str:
        return PurePosixPath(self.inner).stem

    def open(self, mode: str = "rb") -> BinaryIO:
        """Its bytes as a stream that can seek; only what is read of it is read from disk."""
        if mode != "rb":
            raise ValueError(f"a member of a tar can't be opened as '{mode}'")
        return io.BufferedReader(
            _Window(self.shard.open("rb", buffering=0), self.offset, self.size)
        )

    def read_bytes(self) -> bytes:
        """Its bytes.

        Raises:
            OSError: the shard is gone, or shorter than it was.
        """
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise OSError(f"{self.shard} ends within {self.inner}")
        return content

    def __str__(self) -> str:
        return f"{self.shard}:{self.inner}"


class _Window(io.RawIOBase):
    """A part of a file as a file of its own; closes it."""

    def __init__(self, file: io.FileIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "seek to before the beginning")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._position)]
        self._file.seek(self._offset + self._position)
        count = self._file.readinto(view)
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


Source: TypeAlias = Path | TarMember
