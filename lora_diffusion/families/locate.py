"""Where a base model lies: a path, or the hub. No torch, and no network is asked."""

from __future__ import annotations

import difflib
from pathlib import Path

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from lora_diffusion.families import hub

HUB_PREFIX = "hub:"


def locate(location: str) -> Path | str:
    """`location` as a path that exists, or as a hub id. Asks no network.

    Raises:
        InputError: it is neither.
    """
    shown = f"Base model '{printable(location)}'"
    if not location.strip():
        raise InputError("model.base is empty. Give a folder, a .safetensors file or a hub id.")
    if location.startswith(HUB_PREFIX):
        repo = location.removeprefix(HUB_PREFIX)
        if hub.looks_like_id(repo):
            return repo
        raise InputError(f"{shown}: after '{HUB_PREFIX}' comes owner/name.")
    if "://" in location:
        raise InputError(
            f"{shown}: is an address. Give the hub id alone (owner/name), or download the file and "
            "give its path."
        )
    path = bundled.resolve(location)
    if _exists(path):
        return path
    # With a folder called `owner` here, a mistyped path is likelier than a hub id.
    if hub.looks_like_id(location) and not _exists(Path(location).parent):
        return location
    raise InputError(f"{shown}: there is no such folder or file.{_suggestion(path, location)}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or not a name at all
        return False


def _suggestion(path: Path, location: str) -> str:
    """What to do about a path that is not there, with the nearest name that is."""
    beside: list[str] = []
    if _exists(path.parent) and path.parent.is_dir():
        beside = sorted(entry.name for entry in path.parent.iterdir())
    near = difflib.get_close_matches(path.name, beside, n=1)
    fix = f" Did you mean {printable(near[0])}?" if near else ""
    if hub.looks_like_id(location):
        return f"{fix} If you mean the hub, write {HUB_PREFIX}{printable(location)}."
    if near:
        return fix
    return " Give a diffusers folder, a .safetensors checkpoint, or a hub id such as owner/name."
