"""Settings of where a run's figures are mirrored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainers.spec.section import Section

Tracker = Literal["tensorboard", "wandb"]


class TrackingSpec(Section):
    """Mirrors of `events.jsonl`, which stays the truth."""

    to: tuple[Tracker, ...] = Field(
        (),
        description="Also show the figures and previews in tensorboard (written into the run "
        "folder), in wandb, or both, as tensorboard,wandb. Needs the extra 'tracking'.",
    )
    project: str = Field("lora-diffusion", min_length=1, description="Kind wandb: its project.")
    name: str | None = Field(
        None, description="Name of the run in wandb; unset takes the run folder's."
    )
    offline: bool = Field(
        False, description="Kind wandb: write into the run folder only; 'wandb sync' sends it."
    )

    @model_validator(mode="after")
    def _settings_belong_together(self) -> TrackingSpec:
        for name in ("project", "name", "offline"):
            is_set = getattr(self, name) != type(self).model_fields[name].default
            if is_set and "wandb" not in self.to:
                raise ValueError(
                    f"tracking.{name} is for wandb: set tracking.to to wandb, or leave this out"
                )
        return self
