"""The library folder as the tab shows it: indexed in the background, thumbnails by opaque id."""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
from pathlib import Path

from lora_diffusion.errors import InputError, printable
from trainers.library.cards import Card
from trainers.library.index import Library
from ui.gate.shelf import Shelf

_MAX_THUMBNAIL = 4_000_000


class Shown:
    """The cards of one folder. An update goes on in a thread, and what it has read is shown."""

    def __init__(self, folder: Path, shelf: Shelf, scratch: Path) -> None:
        self._folder, self._shelf, self._scratch = folder, shelf, scratch
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._library: Library | None = None
        self.progress: tuple[int, int] | None = None
        self.problem = ""

    def update(self) -> None:
        """Look for new, changed and removed files; returns at once."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            if not self._folder.is_dir():
                return
            try:
                self._library = self._library or Library(self._folder)
            except (InputError, OSError) as error:
                self.problem = printable(error, 300)
                return
            self._thread = threading.Thread(target=self._read, args=(self._library,), daemon=True)
            self._thread.start()
        self._thread.join(0.5)  # a small folder is there at once

    def cards(self) -> list[Card]:
        """What has been read so far, by title."""
        return self._library.cards() if self._library else []

    def path(self, card: Card) -> Path:
        """The file of a card."""
        return self._folder / card.file

    def thumbnail(self, card: Card, side_px: int) -> str | None:
        """The address of its picture; None without one."""
        if self._library is None or not card.has_thumbnail:
            return None
        try:
            found = self._library.thumbnail(card.file)
        except InputError:
            return None
        if not found.startswith("data:"):
            return self._shelf.picture(Path(found), side_px) if found else None
        if len(found) > _MAX_THUMBNAIL:
            return None
        path = self._scratch / f"thumbnail-{hashlib.sha256(found.encode()).hexdigest()[:24]}"
        if not path.is_file():
            try:
                path.write_bytes(base64.b64decode(found.partition(",")[2], validate=True))
            except (binascii.Error, OSError):
                return None
        return self._shelf.picture(path, side_px)

    def _read(self, library: Library) -> None:
        def tell(done: int, total: int, _file: str) -> None:
            self.progress = (done, total)

        try:
            library.update(tell)
            self.problem = ""
        except (InputError, OSError) as error:
            self.problem = printable(error, 300)
        self.progress = None
