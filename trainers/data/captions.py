"""Captions: sidecar files and the trigger word. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from lora_diffusion.errors import InputError, printable

SIDECAR_ENDINGS = (".txt", ".caption")


def read_caption(picture: Path, default: str | None, trigger: str | None) -> str:
    """The caption of `picture`: from its sidecar file, else `default`; with the trigger word.

    Raises:
        InputError: no caption and no default, or a sidecar that is not UTF-8.
    """
    path = sidecar(picture)
    if path is not None:
        return with_trigger(_read(path), trigger)
    if default is None:
        raise InputError(
            f"{printable(picture)}: has no caption. Put one into {picture.stem}.txt beside it, or "
            "set data.trigger."
        )
    return with_trigger(default, trigger)


def sidecar(picture: Path) -> Path | None:
    """The caption file beside `picture`; None if there is none."""
    candidates = (picture.with_suffix(ending) for ending in SIDECAR_ENDINGS)
    return next((path for path in candidates if path.is_file()), None)


def with_trigger(caption: str, trigger: str | None) -> str:
    """`caption`, starting with the trigger word unless it is in it as a word already."""
    if not trigger or has_word(caption, trigger):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def without_trigger(caption: str, trigger: str | None) -> str:
    """`caption` with the trigger word taken out."""
    if not trigger:
        return caption
    pattern = rf"(?<!\w){re.escape(trigger)}(?!\w)[ ,]*"
    return " ".join(re.sub(pattern, "", caption).split()).strip(" ,")


def has_word(caption: str, word: str) -> bool:
    """Whether `word` stands in `caption` as a whole word."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption) is not None


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{printable(path)}: is not UTF-8 text. Save it as UTF-8.") from None
    return " ".join(text.split())
