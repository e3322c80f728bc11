"""The note above a run: what happened, what is safe, and which button goes on from there."""

from __future__ import annotations

from typing import Any

from lora_diffusion.errors import printable
from trainers.jobs import RunDir, adapter_name
from trainers.spec import JobSpec
from ui.follow import Progress, RunState

Json = dict[str, Any]


def note(
    run: RunDir,
    progress: Progress,
    status: RunState,
    spec: JobSpec | None,
    log: str,
    waiting_for: str,
) -> Json | None:
    """`kind` (good, bad, plain), `title` and `text`; None where there is nothing to say."""
    at = f"step {progress.step:,}" if progress.total else "the first step"
    match status:
        case "finished":
            return _finished(run, progress, spec)
        case "failed":
            defect = bool(progress.outcome and progress.outcome.body.get("defect"))
            ours = "This is our defect, not yours: the log below says where. " if defect else ""
            return _told("bad", failure(progress), ours + _kept(progress))
        case "stopped":
            before = "at" if progress.total else "before"
            return _told("plain", f"Stopped {before} {at}.", _kept(progress))
        case "interrupted":
            return _told("bad", _interruption(progress, log), _kept(progress))
        case "paused":
            text = "It keeps its memory and its place. Resume goes on with the next step."
            return _told("plain", f"Paused at {at}.", text)
        case "waiting":
            return _told("plain", "Waiting.", waiting_for)
        case "prepared":
            return _told("plain", "Not started.", "Its settings are saved; Start puts it in line.")
    return None


def failure(progress: Progress) -> str:
    """The sentence that a run failed with."""
    text = progress.outcome.body.get("text") if progress.outcome else None
    return printable(text or "No reason was given; see the log.", 500)


def is_out_of_memory(progress: Progress) -> bool:
    """Whether a failed run was short of memory."""
    return "memory" in failure(progress).lower()


def phase(progress: Progress) -> str:
    """What a run does besides steps: `Encoding pictures (3 of 14)`."""
    if not progress.total and not progress.phase:
        return "Starting"
    text = progress.phase.get("text") or progress.phase.get("name")
    if not text:
        return ""
    done, total = progress.phase.get("done"), progress.phase.get("total")
    count = f" ({done} of {total})" if isinstance(done, int) and isinstance(total, int) else ""
    said = printable(text, 120).rstrip(".… ")
    return said[:1].upper() + said[1:] + count


def _finished(run: RunDir, progress: Progress, spec: JobSpec | None) -> Json:
    early = progress.outcome.body.get("stopped_early") if progress.outcome else None
    best, points = progress.best_step, progress.validation.points
    if best is not None and best < points[-1].step:
        text = "validation rises after it, so the later steps began to memorise."
        told = f" {printable(early, 400)}" if isinstance(early, str) else ""
        return _told("good", f"Finished. Step {best:,} looks best:", text + told)
    name = printable(adapter_name(spec, run), 80) if spec else "The adapter"
    return _told("good", "Finished.", f"{name} is ready: try it, or export it.")


def _kept(progress: Progress) -> str:
    saved = progress.checkpoint_step
    if saved:
        return f"Nothing is lost: step {saved:,} is saved, and Resume goes on from there."
    return "No checkpoint was reached, so Resume starts at step 0."


def _interruption(progress: Progress, log: str) -> str:
    """Why a process ended without an outcome, as far as its log knows."""
    last = log.rpartition("\n")[2]
    if last.startswith("error: "):
        return last.removeprefix("error: ")
    if not progress.started:
        return "The training process ended before training began."
    return "The training process ended without finishing."


def _told(kind: str, title: str, text: str) -> Json:
    return {"kind": kind, "title": title, "text": text}
