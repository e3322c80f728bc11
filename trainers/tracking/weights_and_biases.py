"""Weights & Biases: one of its runs for each of ours, however often that is resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_diffusion.randomness import derive_seed
from trainers.events import read_events
from trainers.export import without_paths
from trainers.jobs import RunDir
from trainers.spec import JobSpec
from trainers.tracking.mirror import Picture


class WeightsAndBiases:
    """Sends figures and previews; no code, no local paths, nothing of the terminal."""

    def __init__(self, spec: JobSpec, run_dir: RunDir, start: int) -> None:
        import wandb

        self._wandb: Any = wandb
        tracking = spec.tracking
        self._run = wandb.init(
            project=tracking.project,
            name=tracking.name or run_dir.path.resolve().name,
            id=run_id(run_dir),
            resume="allow",
            reinit="create_new",
            dir=str(run_dir.path),
            config=without_paths(spec).model_dump(mode="json"),
            mode="offline" if tracking.offline else None,
            settings=wandb.Settings(
                silent=True, console="off", disable_code=True, disable_git=True
            ),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        images = {
            picture.label: self._wandb.Image(str(picture.path), caption=picture.caption)
            for picture in pictures
        }
        self._run.log({"step": step, **images})

    def close(self, outcome: str) -> None:
        self._run.finish(exit_code=0 if outcome in ("finished", "stopped") else 1)


def run_id(run_dir: RunDir) -> str:
    """The same whenever this run goes on: it follows from when its first event was written."""
    events, _ = read_events(run_dir.events_file)
    began = f"{events[0].at:.3f}" if events else ""
    return f"{derive_seed('run', str(run_dir.path.resolve()), began):016x}"
