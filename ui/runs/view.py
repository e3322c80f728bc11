"""What the Runs screen shows, as plain JSON made from a followed run."""

from __future__ import annotations

from typing import Any

import psutil

from lora_diffusion.errors import InputError, printable
from trainers import jobs
from trainers.jobs import RunDir
from trainers.layering import to_toml
from trainers.spec import JobSpec
from ui import words
from ui.datasets import first_picture
from ui.follow import Follower, Progress, RunState
from ui.gate.shelf import Shelf
from ui.runs import loss_maps, notes

THUMBNAIL_PX = 160
PREVIEW_PX = 768
SHEET_PX = 4_096
_LOG_BYTES = 60_000
_LOG_LINES = 400
_RESUMABLE = frozenset({"stopped", "interrupted", "failed"})
_WORKING = frozenset({"running", "paused"})

Json = dict[str, Any]


def card(follower: Follower, shelf: Shelf, waiting: bool = False) -> Json:
    """One line of the rail."""
    progress, spec = follower.latest, follower.spec()
    status: RunState = "waiting" if waiting else follower.status()
    return {
        "id": follower.name,
        "title": follower.title,
        "sweep": printable(follower.sweep, 80),
        "status": status,
        "line": _card_line(progress, status, spec),
        "share": _share(progress, status),
        "left": _left_text(progress) if status == "running" else "",
        "thumbnail": _thumbnail(follower.run, progress, spec, shelf),
    }


def view(follower: Follower, shelf: Shelf, waiting_for: str | None = None) -> Json:
    """The whole stage of one run.

    Args:
        waiting_for: why the run waits in the queue; None where it does not.
    """
    run, progress, spec = follower.run, follower.progress, follower.spec()
    status: RunState = follower.status() if waiting_for is None else "waiting"
    note = notes.note(run, progress, status, spec, log_tail(run), waiting_for or "")
    return {
        "id": follower.name,
        "title": follower.title,
        "sweep": printable(follower.sweep, 80),
        "subtitle": _subtitle(progress, spec),
        "status": status,
        "note": note,
        "resumable": status in _RESUMABLE,
        "short_of_memory": status == "failed" and notes.is_out_of_memory(progress),
        "step": progress.step,
        "total": progress.total,
        "share": _share(progress, status),
        "phase": notes.phase(progress) if status == "running" else "",
        "phase_share": _phase_share(progress) if status == "running" else None,
        "left_seconds": _left(progress) if status == "running" else None,
        "took": _took(progress),
        "ended_at": progress.outcome.at if progress.outcome and status in _RESUMABLE else None,
        "figures": _figures(run, progress, status),
        "curve": progress.loss.curve(),
        "validation": progress.validation.pairs,
        "loss_map": loss_maps.shown(run, progress, shelf),
        "best_step": progress.best_step,
        "previews": _previews(run, progress, shelf),
        "contact_sheet": shelf.picture(run.contact_sheet, SHEET_PX),
        "next_preview": _next_preview(progress, spec) if status == "running" else None,
        "exports": _exports(run, progress, spec, shelf, final=status == "finished"),
        "notes": [printable(note, 400) for note in progress.notes[-5:]],
    }


def log_tail(run: RunDir) -> str:
    """The end of `log.txt`, as printable text."""
    try:
        with run.log_file.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return "Nothing has been logged yet."
    lines = [printable(part.rpartition("\r")[2], 600) for part in text.split("\n")]
    return "\n".join(lines[-_LOG_LINES:]).strip() or "Nothing has been logged yet."


def settings_text(run: RunDir) -> str:
    """The settings as TOML, or why they can't be read."""
    try:
        return to_toml(run.spec())
    except InputError as error:
        return printable(error, 600)


def _subtitle(progress: Progress, spec: JobSpec | None) -> str:
    if spec is None:
        return "Its settings can't be read."
    parts = [words.place(spec.model.base), words.place(spec.data.folder)]
    pictures = progress.started.get("pictures")
    if isinstance(pictures, int):
        parts.append(words.counted(pictures, "picture"))
    return " · ".join([*parts, f"rank {spec.adapter.rank}"])


def _card_line(progress: Progress, status: RunState, spec: JobSpec | None) -> str:
    step = f"{progress.step:,}"
    if status == "running":
        return notes.phase(progress) or f"Step {step} of {progress.total:,}"
    if status == "finished":
        best = progress.best_step
        last = words.counted(progress.step, "step") if best is None else f"best at step {best:,}"
        return " · ".join(filter(None, [_took(progress), last]))
    if status == "failed":
        return f"Failed at step {step}: {notes.failure(progress)}"
    if status in {"stopped", "paused"}:
        return f"{status.capitalize()} at {step} of {progress.total:,}" if progress.total else (
            f"{status.capitalize()} before the first step"
        )  # fmt: skip
    if status == "interrupted":
        return f"Interrupted at step {step}"
    return _subtitle(progress, spec) if status == "waiting" else "Not started"


def _phase_share(progress: Progress) -> float | None:
    """How far a countable phase is; None for one that can't be counted."""
    done, total = progress.phase.get("done"), progress.phase.get("total")
    if not isinstance(done, int) or not isinstance(total, int) or total <= 0:
        return None
    return min(1.0, max(0.0, done / total))


def _share(progress: Progress, status: RunState) -> float:
    if status == "finished":
        return 1.0
    return min(1.0, progress.step / progress.total) if progress.total else 0.0


def _left(progress: Progress) -> float | None:
    if not progress.total or progress.pace is None:
        return None
    return max(0.0, (progress.total - progress.step) * progress.pace)


def _left_text(progress: Progress) -> str:
    left = _left(progress)
    return f"{words.duration(left)} left" if left is not None else ""


def _took(progress: Progress) -> str:
    seconds = progress.outcome.body.get("seconds") if progress.outcome else None
    return words.duration(seconds) if isinstance(seconds, int | float) else ""


def _figures(run: RunDir, progress: Progress, status: RunState) -> list[Json]:
    figures = [
        {"label": "Loss", "value": f"{progress.loss.smooth[-1]:.4f}" if progress.step else "–"},
        {"label": "Validation", "value": "–"},
        {"label": "Speed", "value": "–", "unit": ""},
        {"label": "Memory", "value": "–", "unit": ""},
        {"label": "Learning rate", "value": _rate(progress)},
    ]
    if progress.validation.points:
        figures[1]["value"] = f"{progress.validation.points[-1].loss:.4f}"
    pace = progress.seconds_a_step
    if pace is not None and status == "running":
        fast = pace < 1
        value = f"{1 / pace:.1f}" if fast else f"{pace:.1f}"
        figures[2] |= {"value": value, "unit": "steps/s" if fast else "s a step"}
    memory = progress.last_step.get("peak_bytes") or (
        _process_bytes(run) if status in _WORKING else 0
    )
    if isinstance(memory, int) and memory > 0:
        figures[3] |= {"value": f"{memory / 2**30:.1f}", "unit": "GB"}
    return figures


def _process_bytes(run: RunDir) -> int:
    """Main memory of the run's process, for runs on the CPU; 0 where it can't be told."""
    pid = jobs.process_id(run)
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid is not None else 0
    except (ValueError, psutil.Error):
        return 0


def _rate(progress: Progress) -> str:
    rate = progress.last_step.get("lr")
    return words.significant(float(rate)) if isinstance(rate, int | float) else "–"


def _previews(run: RunDir, progress: Progress, shelf: Shelf) -> list[Json]:
    result = []
    for step, pictures in sorted(progress.previews.items()):
        shown = [_preview(run, picture, shelf) for picture in pictures[:8]]
        if any(shown):
            result.append({"step": step, "pictures": [p for p in shown if p]})
    return result


def _preview(run: RunDir, picture: Json, shelf: Shelf) -> Json | None:
    path = run.named(picture.get("file"))
    if path is None:
        return None
    return {
        "prompt": printable(picture.get("prompt", ""), 200),
        "url": shelf.picture(path, PREVIEW_PX),
        "thumbnail": shelf.picture(path, THUMBNAIL_PX),
    }


def _next_preview(progress: Progress, spec: JobSpec | None) -> Json | None:
    if spec is None or not spec.preview.enabled or not progress.total or not progress.step:
        return None
    every = spec.preview.every_steps or progress.total
    step = min(progress.total, (progress.step // every + 1) * every)
    pace = progress.seconds_a_step
    return {"step": step, "seconds": (step - progress.step) * pace if pace else None}


def _exports(
    run: RunDir, progress: Progress, spec: JobSpec | None, shelf: Shelf, *, final: bool
) -> list[Json]:
    """Adapters that can be downloaded, by step; the last one is the run's own."""
    files = {step: run.named(file) for step, file in progress.exports.items()}
    if final and spec is not None:
        files[progress.step] = run.adapter_file(spec)
    found = []
    for step, path in sorted(files.items()):
        url = shelf.adapter(path) if path is not None else None
        if path is not None and url is not None:
            size = words.file_size(path.stat().st_size)
            found.append(
                {"step": step, "name": printable(path.name, 120), "url": url, "size": size}
            )
    return found


def _thumbnail(run: RunDir, progress: Progress, spec: JobSpec | None, shelf: Shelf) -> str | None:
    for _, pictures in sorted(progress.previews.items(), reverse=True):
        path = run.named(pictures[0].get("file")) if pictures else None
        if path is not None:
            return shelf.picture(path, THUMBNAIL_PX)
    picture = first_picture(spec.data.folder) if spec else None
    return shelf.picture(picture, THUMBNAIL_PX) if picture else None
