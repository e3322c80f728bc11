"""The newest loss map of a run: its picture, and what stands out in it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from trainers.jobs import RunDir
from trainers.validation import findings, loss_map
from ui.follow import Progress
from ui.gate.shelf import Shelf

_SIDE_PX = 1_600
_MOST = 12

Json = dict[str, Any]


def shown(run: RunDir, progress: Progress, shelf: Shelf) -> Json | None:
    """`{step, url, findings}`; None before anything was measured."""
    body = progress.measured
    drawn, written = run.named(body.get("picture")), run.named(body.get("file"))
    if drawn is None and written is None:
        return None
    step = body.get("step")
    return {
        "step": step if isinstance(step, int) else 0,
        "url": shelf.picture(drawn, _SIDE_PX) if drawn is not None else None,
        "findings": list(_findings(written, written.stat().st_mtime_ns)) if written else [],
        "leak": _leak(body.get("leak")),
    }


@functools.lru_cache(maxsize=64)
def _findings(path: Path, _written: int) -> tuple[Json, ...]:
    try:
        found = findings.find(loss_map.read(path))
    except InputError:
        return ()
    return tuple(
        {
            "picture": printable(f.picture, 80),
            "text": printable(f.text.removeprefix(f"{f.picture}: "), 400),
        }
        for f in found[:_MOST]
    )


def _leak(share: object) -> str:
    """How far the adapter acts without its trigger, in words."""
    if not isinstance(share, int | float):
        return ""
    return f"Without the trigger word it does {share:.0%} of what it does with it."
