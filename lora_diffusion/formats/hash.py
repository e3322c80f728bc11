"""The hashes by which other tools know a file. No torch.

| name | of | shown as |
| --- | --- | --- |
| sha256 | the whole file | CivitAI's SHA256 |
| AutoV2 | the same, first 10 hex digits | changes with any metadata edit |
| `sshs_model_hash` | all bytes after the header | what A1111 and Forge match images by |
| AutoV3 | the same, first 12 hex digits | "Lora hashes" in an image, CivitAI's AutoV3 |
| `sshs_legacy_hash` | 64 KiB at 1 MiB, were `ss_` the only metadata; 8 digits | old tools |

Each is computed from bytes that exist. A hash of nothing (`EMPTY_SHA256`, what hashing an already
consumed buffer gives) would link every picture to a stranger's model, so it is never returned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lora_diffusion.errors import AdapterFileError, printable
from lora_diffusion.formats.header import LENGTH_BYTES, MAX_HEADER_BYTES

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
LEGACY_OFFSET = 0x100000
LEGACY_BYTES = 0x10000
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileHashes:
    """Lower-case hex digests of one safetensors file.

    Attributes:
        sha256: of the whole file.
        model: of all bytes after the header (`sshs_model_hash`).
    """

    sha256: str
    model: str

    @property
    def autov2(self) -> str:
        return self.sha256[:10]

    @property
    def autov3(self) -> str:
        return self.model[:12]


def file_hashes(path: str | Path) -> FileHashes:
    """Both digests in one pass over the file, in constant memory.

    Raises:
        AdapterFileError: the file has no bytes after its header.
        OSError: it cannot be read.
    """
    path = Path(path)
    whole, model = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file:
        prefix = file.read(LENGTH_BYTES)
        length = int.from_bytes(prefix, "little")
        header = file.read(min(length, MAX_HEADER_BYTES))
        whole.update(prefix + header)
        while chunk := file.read(_CHUNK_BYTES):
            whole.update(chunk)
            model.update(chunk)
    return FileHashes(whole.hexdigest(), _not_empty(path, model.hexdigest()))


def model_hash(path: str | Path) -> str:
    """`sshs_model_hash`: sha256 of the bytes after the header, 64 hex digits.

    Raises:
        AdapterFileError: there are none.
        OSError: the file cannot be read.
    """
    return file_hashes(path).model


def sha256_of(chunks: Iterable[bytes | memoryview]) -> str:
    """sha256 of the concatenated `chunks`, 64 hex digits."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def legacy_hash(header: bytes, chunks: Iterable[bytes | memoryview]) -> str | None:
    """`sshs_legacy_hash` of a file that would be `header` (length included) then `chunks`.

    Returns:
        Eight hex digits; None for a file that ends before the hashed range (1 MiB) begins, whose
        hash would be that of an empty buffer.
    """
    digest = hashlib.sha256()
    position, hashed = 0, 0
    for chunk in (header, *chunks):
        start = max(LEGACY_OFFSET - position, 0)
        end = max(LEGACY_OFFSET + LEGACY_BYTES - position, 0)
        piece = memoryview(chunk)[start:end]
        digest.update(piece)
        hashed += len(piece)
        position += len(chunk)
    return digest.hexdigest()[:8] if hashed else None


def _not_empty(path: Path, digest: str) -> str:
    if digest == EMPTY_SHA256:
        raise AdapterFileError(f"{printable(path.name)}: there are no tensor bytes to hash.")
    return digest
