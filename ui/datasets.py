"""A training folder as the form shows it: how many pictures, the first ones, their captions."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable

PICTURE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
CAPTION_ENDINGS = (".txt", ".caption")
MAX_FILES = 100_000
_CAPTION_BYTES = 4_000
_REMEMBERED_SECONDS = 10


@dataclass(frozen=True)
class Dataset:
    """The pictures of a folder in name order, and how many of them have a caption."""

    folder: Path
    pictures: tuple[Path, ...]
    captioned: int

    def caption(self, picture: Path) -> str:
        """The text beside a picture; empty where there is none."""
        for ending in CAPTION_ENDINGS:
            try:
                with picture.with_suffix(ending).open("rb") as file:
                    text = file.read(_CAPTION_BYTES).decode("utf-8-sig", "replace")
            except OSError:
                continue
            return printable(" ".join(text.split()), 300)
        return ""


def look(location: str) -> Dataset:
    """The pictures under `location`, sub-folders included.

    Raises:
        InputError: no such folder, or no pictures in it.
    """
    if not location.strip():
        raise InputError("Type the folder that holds your pictures.")
    folder = bundled.resolve(location.strip())
    if not folder.is_dir():
        raise InputError(f"{printable(location)}: there is no such folder on this computer.")
    names: set[Path] = set()
    pictures = []
    for number, path in enumerate(folder.rglob("*")):
        if number >= MAX_FILES:
            raise InputError(
                f"{printable(location)}: holds more than {MAX_FILES:,} files. "
                "Choose the folder that holds only the training pictures."
            )
        if path.name.startswith("."):
            continue
        if path.suffix.lower() in PICTURE_ENDINGS:
            pictures.append(path)
        elif path.suffix.lower() in CAPTION_ENDINGS:
            names.add(path.with_suffix(""))
    if not pictures:
        raise InputError(f"{printable(location)}: holds no pictures (PNG, JPEG or WebP).")
    captioned = sum(picture.with_suffix("") in names for picture in pictures)
    return Dataset(folder, tuple(sorted(pictures)), captioned)


def first_picture(location: str) -> Path | None:
    """One picture to stand for a folder; None where it is gone."""
    return _first_picture(location, int(time.time() / _REMEMBERED_SECONDS))


@functools.lru_cache(maxsize=256)
def _first_picture(location: str, _moment: int) -> Path | None:
    try:
        return look(location).pictures[0]
    except (InputError, OSError):
        return None
