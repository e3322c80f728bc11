"""The flags that say how pictures are drawn, what they must be, and the line of progress."""

from __future__ import annotations

import argparse
import re
import sys

from lora_diffusion.errors import InputError, printable


def add_drawing_flags(parser: argparse.ArgumentParser, *, seed_of: str) -> None:
    """What all pictures have in common.

    Args:
        seed_of: what the seed is of, for people.
    """
    parser.add_argument("--negative", default="", help="what not to draw")
    parser.add_argument("--seed", type=int, default=0, help=f"of {seed_of} (default 0)")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps (default 25)")
    parser.add_argument("--cfg", type=float, default=7.0, help="guidance scale (default 7)")
    parser.add_argument("--size", metavar="WxH", help="in px (default: the base's own)")
    parser.add_argument("--sampler", default="ddim", help="ddim, euler, euler_a or dpm++")


def check_sampler(name: str) -> None:
    """Raise `InputError` unless there is such a sampler."""
    from lora_diffusion.families.schedulers import SAMPLERS

    if name not in SAMPLERS:
        raise InputError(f"--sampler must be one of {', '.join(SAMPLERS)}.")


def size_of(text: str | None) -> tuple[int, int] | None:
    """`512x768` or `512` as width and height in px; None stays None.

    Raises:
        InputError: it is neither.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if not match:
        raise InputError(f"--size {printable(text)}: write it as 512 or 512x768.")
    return int(match[1]), int(match[2] or match[1])


def show_progress(done: int, total: int) -> None:
    """On standard error, in place of what it said before."""
    print(f"\rdrawing {100 * done // total}%", end="", file=sys.stderr, flush=True)
