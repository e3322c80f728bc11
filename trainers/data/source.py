"""Where a picture's bytes are: a file of its own, or a member of a tar shard. No torch."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeAlias


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
        """Its bytes as a stream that can seek."""
        return io.BytesIO(self.read_bytes())

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


Source: TypeAlias = Path | TarMember
