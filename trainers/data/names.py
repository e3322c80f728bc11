"""Parts of file names within a dataset, with `/`: as `pathlib` has them, and faster. No torch."""

from __future__ import annotations


def base(name: str) -> str:
    """`b.c.png` of `a/b.c.png`."""
    return name.rpartition("/")[2]


def ending(name: str) -> str:
    """`.png` of `a/b.c.png`, as it is written; empty where there is none."""
    before, dot, after = name.rpartition(".")
    if not after or not before or "/" in after or before[-1] == "/":
        return ""
    return dot + after


def without_ending(name: str) -> str:
    """`a/b.c` of `a/b.c.png`."""
    found = ending(name)
    return name[: -len(found)] if found else name


def stem(name: str) -> str:
    """`b.c` of `a/b.c.png`."""
    return without_ending(base(name))
