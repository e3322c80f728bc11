"""Runs side by side: their curves, what they draw, and which settings differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_diffusion.errors import InputError, printable
from trainers.layering import plain
from ui.follow import Follower
from ui.gate.shelf import Shelf

MAX_RUNS = 4
_POINTS = 400
_THUMBNAIL_PX = 320
_SHOWN = 120

Json = dict[str, Any]


def compare(runs: Sequence[Follower], shelf: Shelf) -> Json:
    """Two to four runs; `settings` holds a row for each setting in which they differ.

    Raises:
        InputError: too few or too many runs, or settings that can't be read.
    """
    if not 2 <= len(runs) <= MAX_RUNS:
        raise InputError(f"Tick two to {MAX_RUNS} runs to compare them.")
    return {
        "runs": [_run(follower, shelf) for follower in runs],
        "settings": differences([plain(follower.run.spec()) for follower in runs]),
    }


def differences(settings: Sequence[dict[str, dict[str, Any]]]) -> list[Json]:
    """`{setting, values}` of each setting that is not the same in all; `–` where it is unset."""
    names = {f"{s}.{n}": (s, n) for each in settings for s, group in each.items() for n in group}
    rows = []
    for label, (section, name) in names.items():
        values = [each.get(section, {}).get(name) for each in settings]
        if any(value != values[0] for value in values):
            rows.append({"setting": label, "values": [_shown(value) for value in values]})
    return rows


def _run(follower: Follower, shelf: Shelf) -> Json:
    progress = follower.progress
    newest = max(progress.previews, default=None)
    pictures = []
    for picture in progress.previews.get(newest, []) if newest is not None else []:
        path = follower.run.named(picture.get("file"))
        if path is not None:
            pictures.append(
                {
                    "prompt": printable(picture.get("prompt", ""), 200),
                    "url": shelf.picture(path, _THUMBNAIL_PX),
                }
            )
    return {
        "id": follower.name,
        "title": follower.title,
        "step": progress.step,
        "total": progress.total,
        "loss": f"{progress.loss.smooth[-1]:.4f}" if progress.step else "–",
        "best_step": progress.best_step,
        "curve": progress.loss.curve(_POINTS),
        "preview_step": newest,
        "pictures": pictures[:4],
    }


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return printable(value, _SHOWN) or "empty"
