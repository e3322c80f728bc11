"""Whether a run may go on from a checkpoint: what changed since, and whether that matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_diffusion.errors import InputError, printable
from trainers import checkpoint
from trainers.events import read_events
from trainers.jobs import RunDir
from trainers.spec import JobSpec

# Changing these does not change what is learned.
_HARMLESS_SECTIONS = frozenset({"preview", "save", "tracking", "validation"})
_HARMLESS_FIELDS = frozenset(
    {
        "model.device",
        "model.gradient_checkpointing",
        "model.low_memory",
        "model.threads",
        "model.tokenizer",
        "data.cache_folder",
    }
)
_MAX_SHOWN = 6
# Events after which there is something to lose.
_WORK = frozenset({"step", "checkpoint", "export", "finished"})


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        point: the checkpoint to go on from; None begins at step 0.
        fork: changes that matter were allowed.
        found_nothing: a checkpoint was asked for, and there is none.
    """

    point: checkpoint.Checkpoint | None = None
    fork: bool = False
    found_nothing: bool = False

    @property
    def step(self) -> int:
        return self.point.step if self.point else 0

    def check_dataset(self, fingerprint: str) -> None:
        """Raise `InputError` if pictures or captions changed since the checkpoint."""
        if self.point and not self.fork and self.point.dataset != fingerprint:
            raise InputError(
                "The pictures, their captions or which are held out have changed since the "
                f"checkpoint at step {self.step}. Put them back, or pass --fork to go on with the "
                "new ones."
            )


def find(spec: JobSpec, run_dir: RunDir, *, resuming: bool, fork: bool) -> Start:
    """Where the run in `run_dir` begins.

    Raises:
        InputError: the folder holds a run and `resuming` was not asked for; or a setting that
            matters differs from the checkpoint's and `fork` was not.
    """
    if not resuming:
        if _has_trained(run_dir):
            raise InputError(
                f"{printable(run_dir.path)}: holds a run already. Pass --resume to go on with it, "
                "or choose another --output_dir."
            )
        run_dir.events_file.unlink(missing_ok=True)  # of a start that got nowhere
        return Start()
    point = checkpoint.newest(run_dir.checkpoints)
    if point is None:
        return Start(fork=fork, found_nothing=True)
    changes = differences(point.spec, spec.model_dump(mode="json"))
    if changes and not fork:
        more = len(changes) - _MAX_SHOWN
        shown = "; ".join(changes[:_MAX_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise InputError(
            f"Settings differ from the checkpoint at step {point.step}: {shown}. Put them back to "
            "go on with the same run, or pass --fork to let it change course."
        )
    return Start(point, fork)


def _has_trained(run_dir: RunDir) -> bool:
    """Whether there is work in the folder that a fresh start would lose."""
    events, _ = read_events(run_dir.events_file)
    return any(event.kind in _WORK for event in events) or bool(
        checkpoint.files(run_dir.checkpoints)
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings that matter and differ, as `optim.lr_unet: 0.0001 -> 0.001`.

    A setting that is younger than the checkpoint counts as its default.
    """
    defaults = JobSpec().model_dump(mode="json")
    found = []
    for section in now:
        if section in _HARMLESS_SECTIONS:
            continue
        old = {**defaults[section], **before.get(section, {})}
        for name, value in now[section].items():
            label = f"{section}.{name}"
            if label not in _HARMLESS_FIELDS and old.get(name) != value:
                found.append(f"{label}: {printable(old.get(name), 60)} -> {printable(value, 60)}")
    return found
