"""Settings of a run's length, its previews, and what it saves."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from trainers.spec.section import Section

_NAME_PATTERN = re.compile(r"[^\\/:*?\"<>|\x00-\x1f]+")


class ScheduleSpec(Section):
    """How long a run is, and its batches."""

    steps: int | None = Field(
        None, ge=1, le=10_000_000, description="Training steps; wins over epochs."
    )
    epochs: int | None = Field(
        None, ge=1, le=1_000_000, description="Length in passes over the pictures."
    )
    batch_size: int = Field(
        1, ge=1, le=1024, description="Pictures in one batch, over all devices together."
    )
    accumulate: int = Field(
        1, ge=1, le=1024, description="Batches whose gradients are averaged into one step."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Everything random follows from it.")

    @model_validator(mode="after")
    def _some_length(self) -> ScheduleSpec:
        if self.steps is None and self.epochs is None:
            raise ValueError("schedule needs a length: set schedule.steps or schedule.epochs")
        return self


class PreviewSpec(Section):
    """Pictures drawn while training, always from the same noise."""

    prompts: tuple[str, ...] = Field(
        (),
        description="Prompts to draw, {trigger} filled in; unset takes two captions and one "
        "without the trigger.",
    )
    prompts_file: str | None = Field(
        None,
        description="File of prompts in place of preview.prompts: one a line, with --n (negative) "
        "--w --h --d (seed) --s (steps) --l (guidance) --ss (sampler) after it; or JSON or TOML.",
    )
    negative: str = Field("", description="Negative prompt of all previews.")
    every_steps: int = Field(
        0, ge=0, description="Draw every N steps; 0 draws only before and after."
    )
    enabled: bool = Field(True, description="Draw previews and the contact sheet at all.")
    seed: int = Field(42, ge=0, lt=2**63, description="Seed of the first prompt's noise.")
    sampler: Literal["ddim", "euler", "euler_a", "dpm++"] = Field("ddim", description="Sampler.")
    sampling_steps: int = Field(25, ge=1, le=1000, description="Denoising steps a picture.")
    cfg: float = Field(7.0, ge=0, le=50, description="Classifier-free guidance scale.")
    size_px: int | None = Field(
        None,
        ge=32,
        le=4096,
        multiple_of=8,
        description="Side (px); unset is that of the training crop.",
    )


class SaveSpec(Section):
    """What is written, and when."""

    name: str | None = Field(
        None, description="File name of the adapter without ending; unset takes the run folder's."
    )
    every_steps: int | None = Field(
        None, ge=1, description="Also export a loadable adapter every N steps."
    )
    every_epochs: int | None = Field(
        None, ge=1, description="Also export a loadable adapter every N epochs."
    )
    checkpoint_every_steps: int = Field(
        250, ge=0, description="Checkpoint for --resume every N steps; 0 only when stopped."
    )
    keep_checkpoints: int = Field(2, ge=1, le=1000, description="How many checkpoints are kept.")
    dtype: Literal["fp16", "bf16", "fp32"] = Field("fp16", description="Stored number format.")
    title: str | None = Field(None, description="Title in the metadata; unset takes the name.")
    author: str | None = Field(None, description="Author in the metadata.")
    description: str | None = Field(None, description="Description in the metadata.")

    @field_validator("name")
    @classmethod
    def _name_is_a_file_name(cls, name: str | None) -> str | None:
        if name is not None and (not _NAME_PATTERN.fullmatch(name) or name.startswith(".")):
            raise ValueError(
                "The name (save.name) must be a plain file name, without folders or ending."
            )
        return name
