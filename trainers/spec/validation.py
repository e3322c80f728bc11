"""Settings of what is measured while training, and of when to stop."""

from __future__ import annotations

from pydantic import Field, model_validator

from trainers.spec.section import Section

_HELD_OUT_SHARE = 10
"""One picture of so many is held out where the settings do not say how many."""


class ValidationSpec(Section):
    """The loss on fixed noise and timesteps, on pictures that are held out of training."""

    every_steps: int = Field(
        0,
        ge=0,
        description="Measure before training, every N steps and at the end; 0 measures nothing.",
    )
    hold_out: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Pictures that are kept out of training to be measured; unset takes a tenth "
        "where there are 10 or more, and none of fewer.",
    )
    folder: str | None = Field(
        None,
        description="Folder of other captioned pictures to measure; none of the training pictures "
        "is held out then, unless hold_out says so.",
    )
    timesteps: int = Field(
        8,
        ge=2,
        le=100,
        description="Timesteps at which each picture is measured: the middles of so many equal "
        "parts of those that are trained.",
    )
    max_pictures: int = Field(
        24,
        ge=1,
        le=10_000,
        description="Most pictures that are measured of each sort: held out, trained and class.",
    )
    patience: int = Field(
        0,
        ge=0,
        le=10_000,
        description="End training once the smoothed loss has not fallen for so many measurements; "
        "0 never does.",
    )

    def count_held_out(self, pictures: int) -> int:
        """How many of so many pictures are held out of training."""
        if not self.every_steps:
            return 0
        if self.hold_out is not None:
            return self.hold_out
        return 0 if self.folder else pictures // _HELD_OUT_SHARE

    @model_validator(mode="after")
    def _settings_belong_together(self) -> ValidationSpec:
        if not self.every_steps:
            for name in ("hold_out", "folder", "patience"):
                if getattr(self, name):
                    raise ValueError(
                        f"validation.{name} needs validation.every_steps: set that too, or leave "
                        "this out"
                    )
        if self.patience and self.hold_out == 0 and self.folder is None:
            raise ValueError(
                "validation.patience needs pictures that are not trained: raise "
                "validation.hold_out, or set validation.folder"
            )
        return self
