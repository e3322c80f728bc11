"""A training folder as the form shows it: how many pictures, the first ones, their captions.

What counts as a picture and which file is its caption is the trainer's own rule.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from trainers.data.caption_files import sidecar
from trainers.data.scan import find_pictures

_CAPTION_BYTES = 4_000
_SHOWN = 300
_REMEMBERED_SECONDS = 10


@dataclass(frozen=True)
class Dataset:
    """The pictures of a folder in name order, and how many of them have a caption."""

    folder: Path
    pictures: tuple[Path, ...]
    captioned: int

    def caption(self, picture: Path) -> str:
        """The start of the text beside a picture, whatever its encoding; empty where none is."""
        path = sidecar(picture)
        if path is None:
            return ""
        try:
            with path.open("rb") as file:
                text = file.read(_CAPTION_BYTES).decode("utf-8-sig", "replace")
        except OSError:
            return ""
        return printable(" ".join(text.split()), _SHOWN)


def look(location: str) -> Dataset:
    """The pictures that a run on `location` would train with.

    Raises:
        InputError: no such folder, or no pictures in it.
    """
    if not location.strip():
        raise InputError("Type the folder that holds your pictures.")
    folder = bundled.resolve(location.strip())
    pictures = find_pictures(folder)
    captioned = sum(sidecar(picture) is not None for picture in pictures)
    return Dataset(folder, tuple(pictures), captioned)


def first_picture(location: str) -> Path | None:
    """One picture to stand for a folder; None where it is gone."""
    return _first_picture(location, int(time.time() / _REMEMBERED_SECONDS))


@functools.lru_cache(maxsize=256)
def _first_picture(location: str, _moment: int) -> Path | None:
    try:
        return look(location).pictures[0]
    except (InputError, OSError):
        return None
