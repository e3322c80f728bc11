"""Numbers and names as the studio says them."""

from __future__ import annotations

from pathlib import PurePath

from lora_diffusion.bundled import PREFIX
from lora_diffusion.errors import printable


def duration(seconds: float) -> str:
    """`1 min 27 s`, `2 h 5 min`: at most two units."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60} min" if rest >= 60 else f"{hours} h"


def place(location: str) -> str:
    """A folder or file by its short name; `bundled:demo_base` is `Demo base`."""
    if location.startswith(PREFIX):
        return printable(location.removeprefix(PREFIX).replace("_", " ").capitalize(), 60)
    path = PurePath(location)
    name = path.stem if path.suffix in {".safetensors", ".ckpt"} else path.name
    return printable(name or location, 60)


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 picture`, `1,200 pictures`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def significant(value: float) -> str:
    """A learning rate: `0.0001`, `5.6e-6`."""
    if value == 0:
        return "0"
    text = f"{value:.2g}"
    return text.replace("e-0", "e-").replace("e+0", "e")


def file_size(count: int) -> str:
    """`9.4 MB`, in powers of 1,000."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"
