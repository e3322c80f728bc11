"""The one error type that a user may cause, and its torch-free relatives."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_MAX_SHOWN = 200


class InputError(ValueError):
    """Bad input: a file, a setting, or a combination of settings.

    The message is one sentence or two that name the file or the setting, the cause and the fix.
    Command-line entries print it without a traceback and exit with code 2.
    """


class AdapterFileError(InputError):
    """An adapter file that is broken, hostile, or not an adapter."""


def printable(text: object, limit: int = _MAX_SHOWN) -> str:
    """`text` made safe to print: control and bidi characters dropped, cut to `limit` characters.

    Strings out of files (metadata, tensor names, file names) pass through here before they
    reach a terminal or a page.
    """
    kept = "".join(c for c in str(text) if c == " " or unicodedata.category(c)[0] not in "CZ")
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def listed(names: Sequence[object], shown: int = 5, limit: int = 120) -> str:
    """`'a', 'b' and 3 more`: the first few of `names`, made safe to print."""
    first = ", ".join(f"'{printable(name, limit)}'" for name in names[:shown])
    more = len(names) - shown
    return f"{first} and {more} more" if more > 0 else first
