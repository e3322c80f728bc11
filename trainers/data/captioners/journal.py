"""`.captions.jsonl` in a folder: which of its captions a machine wrote. No torch.

One line a caption, appended before the caption file is written. A caption file whose bytes are
those of its line is the machine's; any other is a person's, an edited one too. A kill between the
two leaves a line without its file, which says nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable

NAME = ".captions.jsonl"


@dataclass(frozen=True)
class Entry:
    """One caption that a machine wrote.

    Attributes:
        picture: the picture's path within the folder, with `/`.
        picture_sha256: of the picture's bytes.
        caption_sha256: of the caption file's bytes.
        captioner, model, settings: what wrote it.
        replaced: the person's caption that it took the place of, if that was asked for.
    """

    picture: str
    picture_sha256: str
    caption_sha256: str
    captioner: str
    model: str
    settings: Mapping[str, Any]
    replaced: str | None = None


class Journal:
    """The journal of one folder; the last line about a picture counts."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            InputError: it can't be read.
        """
        self.path = folder / NAME
        self._captions: dict[str, str] = {}
        self._torn = False
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{printable(self.path)}: can't be read ({error.strerror}).") from None
        self._torn = bool(content) and not content.endswith(b"\n")
        for line in content.splitlines():
            self._read(line)

    def is_machines(self, picture: str, caption: bytes) -> bool:
        """Whether these bytes of a caption file are what a machine wrote for `picture`."""
        return self._captions.get(picture) == sha256(caption)

    def add(self, entries: Iterable[Entry]) -> None:
        """Append and flush to disk.

        Raises:
            OSError: the disk is full or the folder read-only.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lines = []
        for entry in entries:
            record = {
                "picture": entry.picture,
                "picture_sha256": entry.picture_sha256,
                "caption_sha256": entry.caption_sha256,
                "with": entry.captioner,
                "model": entry.model,
                "settings": entry.settings,
                "at": now,
                **({} if entry.replaced is None else {"replaced": entry.replaced}),
            }
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
            self._captions[entry.picture] = entry.caption_sha256
        with self.path.open("ab") as file:
            file.write(("\n" * self._torn + "".join(lines)).encode())
            file.flush()
            os.fsync(file.fileno())
        self._torn = False

    def _read(self, line: bytes) -> None:
        """Take in one line; one that a kill has torn, or a stranger has written, says nothing."""
        try:
            record = json.loads(line)
            picture, caption = record["picture"], record["caption_sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if isinstance(picture, str) and isinstance(caption, str):
            self._captions[picture] = caption


def sha256(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()
