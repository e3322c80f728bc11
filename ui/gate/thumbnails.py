"""Small copies of pictures, kept on disk so that a gallery opens at once the next time.

A copy is known by its picture's path, size and time of change. The cache is bounded: what was not
looked at for longest goes first. It is a help and never needed: where it can't be written, copies
are made anew.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path

from PIL import Image

from lora_diffusion.errors import InputError
from trainers.data import decode
from trainers.data.user_cache import user_cache

MAX_BYTES = 400_000_000
_TRIMMED_EVERY = 500  # copies made
_KEPT_SHARE = 0.8
_AT_ONCE = max(1, min(4, (os.cpu_count() or 2) - 1))
_QUALITY = 86
_VERSION = 1


def default_folder() -> Path:
    """Where the copies are kept unless told otherwise."""
    return user_cache() / "thumbnails"


class Thumbnails:
    """Makes and keeps JPEG copies. Decoding frees the interpreter, and few are made at once."""

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder or default_folder()
        self._max_bytes = max_bytes
        self._turn = threading.BoundedSemaphore(_AT_ONCE)
        self._made = 0

    def get(self, path: Path, side_px: int) -> bytes | None:
        """A JPEG as training sees the picture, at most `side_px` a side; None if it can't be."""
        try:
            stat = path.stat()
        except OSError:
            return None
        what = f"{_VERSION}\0{path.absolute()}\0{stat.st_mtime_ns}\0{stat.st_size}\0{side_px}"
        key = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()
        kept = self._folder / key[:2] / f"{key}.jpg"
        with suppress(OSError):
            content = kept.read_bytes()
            os.utime(kept)
            return content
        with self._turn:
            made = _made(path, side_px)
        if made is not None:
            self._keep(kept, made)
        return made

    def _keep(self, path: Path, content: bytes) -> None:
        beside = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            beside.write_bytes(content)
            beside.replace(path)
        except OSError:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            return
        self._made += 1
        if self._made % _TRIMMED_EVERY == 1:
            self.trim()

    def trim(self) -> None:
        """Bring the cache under its limit."""
        kept = []
        for file in self._folder.glob("*/*"):
            with suppress(OSError):
                stat = file.stat()
                kept.append((stat.st_mtime_ns, stat.st_size, file))
        total = sum(size for _, size, _ in kept)
        if total <= self._max_bytes:
            return
        for _, size, file in sorted(kept):
            if total <= self._max_bytes * _KEPT_SHARE:
                return
            with suppress(OSError):
                file.unlink()
                total -= size


def _made(path: Path, side_px: int) -> bytes | None:
    try:
        with path.open("rb") as file, decode.open_header(file, decode.MAX_MEGAPIXELS) as opened:
            opened.draft("RGB", (side_px, side_px))  # JPEG: decode at a fraction of the size
            picture = decode.to_rgb(opened)
    except (InputError, OSError):
        return None
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
