"""Values as other programs write them: numbers as text, empty text for unset, switches as words."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

UNKNOWN: Any = object()
"""What a value becomes that has no counterpart here."""

_FALSE = frozenset({"", "0", "false", "no", "none"})


def text(value: Any) -> str | None:
    """Text; None where it is empty."""
    return str(value).strip() or None if value is not None else None


def number(value: Any) -> float | None:
    """A number; None where there is none."""
    if isinstance(value, list):
        value = value[0] if value else None
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def numbers(value: Any) -> list[float]:
    """Several numbers, in a list or between commas."""
    pieces = value if isinstance(value, list) else str(value or "").strip("()[] ").split(",")
    found = [number(piece) for piece in pieces]
    return [each for each in found if each is not None]


def positive(value: Any) -> float | None:
    """A number above 0, which is these programs' off."""
    found = number(value)
    return found if found is not None and found > 0 else None


def positive_int(value: Any) -> int | None:
    """A whole number above 0."""
    found = positive(value)
    return int(found) if found is not None and found >= 1 else None


def timestep_max(value: Any) -> int | None:
    """A last timestep; all 1,000 is no limit."""
    found = positive_int(value)
    return found if found is not None and found < 1_000 else None


def flag(value: Any) -> bool:
    """A switch."""
    return str(value).strip().lower() not in _FALSE


def flag_if_set(value: Any) -> bool | None:
    """A switch that is left alone where it is off."""
    return True if flag(value) else None


def one_of(names: Mapping[str, str]) -> Callable[[Any], Any]:
    """Reads one of their words as ours."""

    def convert(value: Any) -> Any:
        return names.get(str(value).strip().lower(), UNKNOWN)

    return convert


def arguments(value: Any) -> dict[str, str]:
    """`["a=1", "b=2"]`, or the same as one text."""
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError:
            value = value.split()
    pairs = (str(piece).partition("=") for piece in value or ())
    return {name.strip(): rest.strip() for name, _, rest in pairs if name.strip()}


def says_something(value: Any) -> bool:
    """Whether a setting is more than an empty field or a switch that is off."""
    if isinstance(value, list | dict):
        return bool(value)
    found = number(value)
    return found != 0 if found is not None else str(value).strip().lower() not in _FALSE
