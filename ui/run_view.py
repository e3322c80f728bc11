"""What the Runs screen shows, as plain JSON made from a followed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from trainers.jobs import RunDir, Status
from trainers.layering import to_toml
from trainers.spec import JobSpec
from ui import words
from ui.datasets import first_picture
from ui.follow import Follower, Progress
from ui.shelf import Shelf

THUMBNAIL_PX = 160
PREVIEW_PX = 768
_LOG_BYTES = 60_000
_LOG_LINES = 400
_RESUMABLE = frozenset({"stopped", "interrupted", "failed", "prepared"})

Json = dict[str, Any]


def card(follower: Follower, shelf: Shelf) -> Json:
    """One line of the rail."""
    progress, status, spec = follower.latest, follower.status(), follower.spec()
    return {
        "id": follower.run.path.name,
        "title": printable(follower.run.path.name, 80),
        "status": status,
        "line": _card_line(progress, status),
        "share": _share(progress, status),
        "left": _left_text(progress) if status == "running" else "",
        "thumbnail": _thumbnail(follower.run, progress, spec, shelf),
    }


def view(follower: Follower, shelf: Shelf) -> Json:
    """The whole stage of one run."""
    run, progress, status, spec = (
        follower.run, follower.progress, follower.status(), follower.spec()
    )  # fmt: skip
    finished = status == "finished"
    return {
        "id": run.path.name,
        "title": printable(run.path.name, 80),
        "subtitle": _subtitle(progress, spec),
        "status": status,
        "note": _note(run, progress, status, spec),
        "resumable": status in _RESUMABLE,
        "step": progress.step,
        "total": progress.total,
        "share": _share(progress, status),
        "phase": _phase(progress) if status == "running" else "",
        "phase_share": _phase_share(progress) if status == "running" else None,
        "left_seconds": _left(progress) if status == "running" else None,
        "took": _took(progress),
        "figures": _figures(progress, status),
        "curve": progress.loss.curve(),
        "previews": _previews(run, progress, shelf),
        "next_preview": _next_preview(progress, spec) if status == "running" else None,
        "adapter": _adapter(run, spec, shelf) if finished else None,
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


def inside(run: RunDir, relative: object) -> Path | None:
    """A file that an event names, if it really lies in the run's folder."""
    if not isinstance(relative, str):
        return None
    try:
        path = (run.path / relative).resolve()
        return path if path.is_relative_to(run.path.resolve()) and path.is_file() else None
    except (OSError, ValueError):
        return None


def _subtitle(progress: Progress, spec: JobSpec | None) -> str:
    if spec is None:
        return "Its settings can't be read."
    parts = [words.place(spec.model.base), words.place(spec.data.folder)]
    pictures = progress.started.get("pictures")
    if isinstance(pictures, int):
        parts.append(words.counted(pictures, "picture"))
    return " · ".join([*parts, f"rank {spec.adapter.rank}"])


def _card_line(progress: Progress, status: Status) -> str:
    step = f"{progress.step:,}"
    if status == "running":
        return _phase(progress) or f"Step {step} of {progress.total:,}"
    if status == "finished":
        return " · ".join(filter(None, [_took(progress), words.counted(progress.step, "step")]))
    if status == "failed":
        return f"Failed at step {step}: {_failure(progress)}"
    if status == "stopped":
        return f"Stopped at step {step} of {progress.total:,}" if progress.total else (
            "Stopped before the first step"
        )  # fmt: skip
    return "Not started" if status == "prepared" else f"Interrupted at step {step}"


def _note(run: RunDir, progress: Progress, status: Status, spec: JobSpec | None) -> Json | None:
    saved = progress.checkpoint_step
    kept = f"Step {saved:,} is saved; Resume goes on from there." if saved else (
        "No checkpoint was reached, so Resume starts at step 0."
    )  # fmt: skip
    if status == "finished":
        name = printable(run.adapter_file(spec).name, 80) if spec else "The adapter"
        return {"kind": "good", "title": "Finished.", "text": f"{name} is ready to use."}
    if status == "failed":
        defect = bool(progress.outcome and progress.outcome.body.get("defect"))
        ours = "This is our defect, not yours: the log below says where. " if defect else ""
        return {"kind": "bad", "title": _failure(progress), "text": ours + kept}
    if status == "stopped":
        title = f"Stopped at step {progress.step:,}." if progress.total else (
            "Stopped before the first step."
        )  # fmt: skip
        return {"kind": "plain", "title": title, "text": kept}
    if status == "interrupted":
        return {"kind": "bad", "title": _interruption(run, progress), "text": kept}
    return None


def _interruption(run: RunDir, progress: Progress) -> str:
    """Why a process ended without an outcome, as far as its log knows."""
    last = log_tail(run).rpartition("\n")[2]
    if last.startswith("error: "):
        return last.removeprefix("error: ")
    if not progress.started:
        return "The training process ended before training began."
    return "The training process ended without finishing."


def _failure(progress: Progress) -> str:
    text = progress.outcome.body.get("text") if progress.outcome else None
    return printable(text or "No reason was given; see the log.", 500)


def _phase(progress: Progress) -> str:
    if not progress.total and not progress.phase:
        return "Starting"
    text = progress.phase.get("text") or progress.phase.get("name")
    if not text:
        return ""
    done, total = progress.phase.get("done"), progress.phase.get("total")
    count = f" ({done} of {total})" if isinstance(done, int) and isinstance(total, int) else ""
    said = printable(text, 120).rstrip(".… ")
    return said[:1].upper() + said[1:] + count


def _phase_share(progress: Progress) -> float | None:
    """How far a countable phase is; None for one that can't be counted."""
    done, total = progress.phase.get("done"), progress.phase.get("total")
    if not isinstance(done, int) or not isinstance(total, int) or total <= 0:
        return None
    return min(1.0, max(0.0, done / total))


def _share(progress: Progress, status: Status) -> float:
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


def _figures(progress: Progress, status: Status) -> list[Json]:
    figures = [
        {"label": "Loss", "value": f"{progress.loss.smooth[-1]:.4f}" if progress.step else "–"},
        {"label": "Speed", "value": "–", "unit": ""},
        {"label": "Learning rate", "value": _rate(progress)},
    ]
    pace = progress.seconds_a_step
    if pace is not None and status == "running":
        fast = pace < 1
        value = f"{1 / pace:.1f}" if fast else f"{pace:.1f}"
        figures[1] |= {"value": value, "unit": "steps/s" if fast else "s a step"}
    memory = progress.last_step.get("peak_bytes")
    if isinstance(memory, int) and memory > 0:
        figures.insert(2, {"label": "Memory", "value": f"{memory / 2**30:.1f}", "unit": "GB"})
    total = f"of {progress.total:,}" if progress.total else ""
    step = {"label": "Step", "value": f"{progress.step:,}", "unit": total}
    return [step, *figures]


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
    path = inside(run, picture.get("file"))
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


def _adapter(run: RunDir, spec: JobSpec | None, shelf: Shelf) -> Json | None:
    if spec is None:
        return None
    path = run.adapter_file(spec)
    url = shelf.adapter(path)
    if url is None:
        return None
    return {"name": printable(path.name, 120), "url": url, "size": words.file_size(_size(path))}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _thumbnail(run: RunDir, progress: Progress, spec: JobSpec | None, shelf: Shelf) -> str | None:
    for _, pictures in sorted(progress.previews.items(), reverse=True):
        path = inside(run, pictures[0].get("file")) if pictures else None
        if path is not None:
            return shelf.picture(path, THUMBNAIL_PX)
    picture = first_picture(spec.data.folder) if spec else None
    return shelf.picture(picture, THUMBNAIL_PX) if picture else None
