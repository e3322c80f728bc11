"""Pictures and adapters the page may fetch, each by an id that nobody can guess or make.

The page never names a path. It gets ids: a keyed hash, new at each launch, of a file that the
studio itself chose to show. Whatever else lies on the disk has no address.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import secrets
import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from ui.gate.thumbnails import Thumbnails

MAX_PIXELS = 100_000_000
_MAX_KEPT_IDS = 50_000
_MAX_KEPT_PICTURES = 600
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True)
class _Shown:
    path: Path
    side_px: int | None  # None: an adapter, sent as it is
    is_kept: bool = False  # the small copy is kept on disk


class Shelf:
    """Hands out ids and finds the files behind them."""

    def __init__(self, thumbnails: Thumbnails | None = None) -> None:
        self._thumbnails = thumbnails or Thumbnails()
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._shown: OrderedDict[str, _Shown] = OrderedDict()
        self._encoded: OrderedDict[str, bytes] = OrderedDict()

    def picture(self, path: Path, side_px: int) -> str | None:
        """The address of a picture, at most `side_px` on a side; None where there is no file."""
        return self._offer(path, side_px, "/studio/picture/")

    def thumbnail(self, path: Path, side_px: int) -> str | None:
        """The same of a picture of a dataset: as training sees it, and kept on disk."""
        return self._offer(path, side_px, "/studio/picture/", is_kept=True)

    def adapter(self, path: Path) -> str | None:
        """The address of a safetensors file for download; None where there is no file."""
        if path.suffix != ".safetensors" or path.is_symlink():
            return None
        return self._offer(path, None, "/studio/adapter/")

    def adapter_path(self, picked: str) -> Path | None:
        """The adapter behind an id."""
        shown = self._shown.get(picked)
        return shown.path if shown is not None and shown.side_px is None else None

    def picture_bytes(self, picked: str) -> bytes | None:
        """The picture behind an id, decoded and written anew as PNG or JPEG; None if not."""
        shown = self._shown.get(picked)
        if shown is None or shown.side_px is None:
            return None
        if shown.is_kept:
            return self._thumbnails.get(shown.path, shown.side_px)
        with self._lock:
            if picked in self._encoded:
                self._encoded.move_to_end(picked)
                return self._encoded[picked]
        encoded = _as_png(shown.path, shown.side_px)
        if encoded is not None:
            with self._lock:
                self._encoded[picked] = encoded
                while len(self._encoded) > _MAX_KEPT_PICTURES:
                    self._encoded.popitem(last=False)
        return encoded

    def _offer(
        self, path: Path, side_px: int | None, prefix: str, *, is_kept: bool = False
    ) -> str | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        what = f"{path.absolute()}\0{stat.st_mtime_ns}\0{stat.st_size}\0{side_px}\0{is_kept}"
        name = hmac.new(self._key, what.encode("utf-8", "surrogateescape"), hashlib.sha256)
        picked = name.hexdigest()[:40]
        with self._lock:
            self._shown[picked] = _Shown(path, side_px, is_kept)
            self._shown.move_to_end(picked)
            while len(self._shown) > _MAX_KEPT_IDS:
                self._shown.popitem(last=False)
        return prefix + picked


def _as_png(path: Path, side_px: int) -> bytes | None:
    """Decode within limits; what comes out holds pixels only, no metadata."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    return None
                opened.draft("RGB", (side_px, side_px))
                upright = ImageOps.exif_transpose(opened)
                upright.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
                picture = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=3)
    return out.getvalue()
