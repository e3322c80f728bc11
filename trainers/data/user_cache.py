"""Where what can be made anew is kept between runs: indexes, small pictures, encoded pictures."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "LORA_DIFFUSION_CACHE"


def user_cache() -> Path:
    """The folder that `LORA_DIFFUSION_CACHE` names, else `lora-diffusion` in the user's caches.

    Those are in `XDG_CACHE_HOME`, by default `~/.cache` (XDG Base Directory Specification 0.8,
    which has relative paths ignored).
    """
    own = os.environ.get(VARIABLE)
    if own:
        return Path(own).expanduser().absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "lora-diffusion"
