"""What a run will take, beside the form: memory from the planner, time from runs like it."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping
from typing import Any

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.outline import Outline
from lora_diffusion.families.outline import outline as look_into
from trainers.planner.estimate import Phase, estimate, has_gpu
from trainers.planner.savings import savings
from trainers.spec import JobSpec
from ui import words
from ui.follow import Follower

_REMEMBERED_SECONDS = 30
_MANY_RUNS = 40
_DOING: Mapping[Phase, str] = {
    "encode pictures": "encoding pictures",
    "draw class pictures": "drawing class pictures",
    "train": "training",
    "draw previews": "drawing previews",
}

Json = dict[str, Any]


def memory(spec: JobSpec, total_bytes: int) -> Json:
    """`{text, share, fits, note}`: the peak, of so much; `note` says what would lower it."""
    gpu = has_gpu(spec.model.device)
    try:
        base = _outline(spec.model.base, spec.model.arch, int(time.time() / _REMEMBERED_SECONDS))
        told = estimate(spec, gpu=gpu, outline=base)
    except InputError as error:
        return {"text": "not known", "share": 0.0, "fits": True, "note": printable(error, 300)}
    share = told.peak / total_bytes if total_bytes else 0.0
    fits = share <= 1
    note = f"The most is needed while {_DOING[told.worst]}."
    if not fits:
        cheaper = savings(spec, gpu=gpu, outline=base)
        note = "It will not fit. " + (
            f"Less with {cheaper[0].line()}." if cheaper else "Choose a smaller picture size."
        )
    of = f"of {total_bytes / 2**30:.0f} GB" if total_bytes else "GB"
    return {
        "text": f"{told.peak / 2**30:.1f} {of}",
        "share": min(1.0, share),
        "fits": fits,
        "note": note,
    }


def duration(spec: JobSpec, runs: Iterable[Follower]) -> Json:
    """`{seconds, text, note}` by the newest run on the same base and picture size.

    Its pace a picture is taken; `seconds` is None where there was no such run, or no length in
    steps. Runs of a sweep took turns, so theirs is passed over.
    """
    for follower in [*runs][:_MANY_RUNS]:
        other, pace = follower.spec(), follower.latest.pace
        if follower.sweep or other is None or pace is None or _alike(other) != _alike(spec):
            continue
        steps = spec.schedule.steps
        if steps is None:
            break
        seconds = steps * pace * _pictures(spec) / _pictures(other)
        return {
            "seconds": seconds,
            "text": f"about {words.duration(seconds)}",
            "note": f"At the pace of '{follower.title}'.",
        }
    return {"seconds": None, "text": "known once it runs", "note": ""}


def _alike(spec: JobSpec) -> tuple[object, ...]:
    """Settings between which a step's time differs too much to be carried over."""
    model, objective = spec.model, spec.adapter
    return (
        model.base, model.device, model.precision, model.gradient_checkpointing, model.threads,
        spec.data.resolution_px, objective.kind, objective.targets, spec.trains_text,
    )  # fmt: skip


def _pictures(spec: JobSpec) -> int:
    return spec.schedule.batch_size * spec.schedule.accumulate


@functools.lru_cache(maxsize=8)
def _outline(location: str, arch: str, _moment: int) -> Outline:
    return look_into(location, arch)
