"""A run's folder read, judged and put in words. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from trainers import jobs
from trainers.events import read_events
from trainers.explain.record import Record, record
from trainers.explain.verdict import Advice, Fit, Verdict
from trainers.jobs import RunDir
from trainers.validation import loss_map
from trainers.validation.findings import Finding, find


@dataclass(frozen=True)
class Explanation:
    """A run in words.

    Attributes:
        status: as `jobs.status`.
        fit: the verdict.
        leaks: whether it acts without its trigger; None where that was not measured.
        headline: the verdict in a sentence.
        says: further sentences, each with its figures.
        pictures: those that stand out.
        advice: what to change next, the most important first.
        command: the run with those changes, or empty where none is a setting.
    """

    run: str
    status: str
    step: int
    total_steps: int
    fit: Fit
    leaks: bool | None
    headline: str
    says: tuple[str, ...]
    pictures: tuple[Finding, ...]
    advice: tuple[Advice, ...]
    command: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(run: RunDir) -> Explanation:
    """Read a run's folder and say what it tells, at any time.

    Raises:
        InputError: there is no run, or its settings can't be read.
    """
    if not run.spec_file.is_file():
        raise InputError(f"{printable(run.path)}: is no run folder, it has no spec.toml.")
    spec = run.spec()
    events, _ = read_events(run.events_file)
    told = record(events)
    verdict = Verdict(spec, told, _pictures(run, told))
    verdict.judge()
    return Explanation(
        run=str(run.path),
        status=jobs.status(run),
        step=told.step,
        total_steps=told.total_steps,
        fit=verdict.fit,
        leaks=verdict.leaks,
        headline=verdict.headline,
        says=tuple(verdict.says),
        pictures=tuple(verdict.pictures),
        advice=tuple(verdict.advice),
        command=_command(run, verdict.advice),
    )


def _pictures(run: RunDir, told: Record) -> list[Finding]:
    """What the newest loss map says of single pictures; nothing where it can't be read."""
    path = run.named(told.measurements[-1].file) if told.measurements else None
    try:
        return find(loss_map.read(path)) if path else []
    except InputError:
        return []


def _command(run: RunDir, advice: Sequence[Advice]) -> str:
    """The same run with the changes that are settings, in a folder beside it."""
    changes = [(each.setting, each.after) for each in advice if each.setting]
    if not changes:
        return ""
    numbers = range(2, 10_000)
    beside = next(
        path for path in (Path(f"{run.path}-{number}") for number in numbers) if not path.exists()
    )
    words = ["python", "-m", "trainers.dreambooth_lora", "--config", str(run.spec_file)]
    words += ["--output_dir", str(beside)]
    for setting, value in changes:
        words += [f"--{setting}", value]
    return shlex.join(words)
