"""Captions and the trigger word. No torch."""

from __future__ import annotations

import re


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
    if word not in caption:
        return False
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption) is not None
