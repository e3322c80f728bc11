"""Edits of many captions at once: what each would become, before any is written. No torch.

A search pattern is a person's own, and some never end on some texts (`(a+)+b`); the `regex`
library stops them after a time, which the standard one can't.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import regex

from lora_diffusion.errors import InputError, printable

SECONDS = 5.0
_MAX_PATTERN = 2_000
_MAX_TEXT = 100_000
_INVALID = (regex.error, IndexError, ValueError, RecursionError, OverflowError)

Kind = Literal["replace", "prefix", "suffix", "drop-repeats"]
KINDS: tuple[Kind, ...] = ("replace", "prefix", "suffix", "drop-repeats")


@dataclass(frozen=True)
class Edit:
    """One edit.

    Attributes:
        kind: replace `find` by `text`; put `text` before or after captions that do not have it
            there; drop tags, between commas, that a caption has already.
        find: what is looked for; only for `replace`.
        text: what is put in; with `is_pattern`, `\\1` is what the first group found.
        is_pattern: `find` is a regular expression.
        match_case: `Cat` is not `cat`.
        whole_words: `cat` is not in `category`.
    """

    kind: Kind
    find: str = ""
    text: str = ""
    is_pattern: bool = False
    match_case: bool = False
    whole_words: bool = False


@dataclass(frozen=True)
class Edited:
    """A caption that an edit changes: its text before and after, and in how many places."""

    before: str
    after: str
    places: int


def compiled(edit: Edit) -> Callable[[str], Edited | None]:
    """The edit as a function of a caption's text; None where it changes nothing.

    The function raises InputError when all its calls together took too long.

    Raises:
        InputError: nothing to look for or to put in, or no valid pattern.
    """
    if edit.kind == "replace":
        return _replacer(edit)
    if edit.kind == "drop-repeats":
        return _without_repeats
    if not edit.text:
        raise InputError("Type the text to put there.")
    if edit.kind == "prefix":
        return lambda text: _if_changed(text, _prefixed(text, edit.text))
    return lambda text: _if_changed(text, _suffixed(text, edit.text))


def tags(caption: str) -> list[str]:
    """The parts of a caption between commas; empty ones are left out."""
    return [tag for part in caption.split(",") if (tag := " ".join(part.split()))]


def count_tags(captions: Iterable[str]) -> dict[str, int]:
    """Tag -> in how many captions it is, the most frequent first."""
    counts: dict[str, int] = {}
    for caption in captions:
        for tag in dict.fromkeys(tags(caption)):
            counts[tag] = counts.get(tag, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _replacer(edit: Edit) -> Callable[[str], Edited | None]:
    if not edit.find:
        raise InputError("Type what to look for.")
    if len(edit.find) > _MAX_PATTERN or len(edit.text) > _MAX_TEXT:
        raise InputError(f"The text to look for is over {_MAX_PATTERN:,} letters. Shorten it.")
    source = edit.find if edit.is_pattern else regex.escape(edit.find, literal_spaces=True)
    if edit.whole_words:
        source = rf"(?<!\w)(?:{source})(?!\w)"
    try:
        pattern = regex.compile(source, 0 if edit.match_case else regex.IGNORECASE)
    except _INVALID as error:
        raise _no_pattern(edit, error) from None
    deadline = time.monotonic() + SECONDS

    def replace(text: str) -> Edited | None:
        try:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            after, places = pattern.subn(_template(edit), text, timeout=left, concurrent=True)
        except TimeoutError:
            raise InputError(
                f"'{printable(edit.find, 60)}' takes over {SECONDS:g} s, so nothing was changed. "
                "Use a simpler pattern; nested repeats such as (a+)+ are slow."
            ) from None
        except _INVALID as error:  # of the text to put in
            raise _no_pattern(edit, error) from None
        if len(after) > _MAX_TEXT:
            raise InputError("A caption would get over 100,000 letters, so nothing was changed.")
        return Edited(text, after, places) if after != text else None

    return replace


def _no_pattern(edit: Edit, error: Exception) -> InputError:
    return InputError(
        f"'{printable(edit.find, 60)}' and its replacement are no pattern that can be used "
        f"({printable(error, 100)}). Correct them, or turn 'Pattern' off."
    )


def _template(edit: Edit) -> str | Callable[[object], str]:
    return edit.text if edit.is_pattern else lambda _found: edit.text


def _prefixed(text: str, prefix: str) -> str:
    return text if not text.strip() or text.startswith(prefix) else prefix + text


def _suffixed(text: str, suffix: str) -> str:
    """Before the white space at the end, such as the file's last newline."""
    body = text.rstrip()
    if not body or body.endswith(suffix.rstrip()):
        return text
    return body + suffix + text[len(body) :]


def _without_repeats(text: str) -> Edited | None:
    body = text.rstrip()
    seen: set[str] = set()
    kept = []
    parts = body.split(",")
    for part in parts:
        key = " ".join(part.split()).casefold()
        if key and key not in seen:
            kept.append(part)
        seen.add(key)
    nonempty = sum(bool(part.strip()) for part in parts)
    if len(kept) == nonempty:
        return None
    after = ",".join(kept).strip() + text[len(body) :]
    return Edited(text, after, nonempty - len(kept))


def _if_changed(before: str, after: str) -> Edited | None:
    return Edited(before, after, 1) if before != after else None
