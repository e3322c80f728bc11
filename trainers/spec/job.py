"""`JobSpec`: everything a run needs."""

from __future__ import annotations

from pydantic import Field, model_validator

from trainers.spec.adapter import HAS_B, AdapterSpec
from trainers.spec.course import PreviewSpec, SaveSpec, ScheduleSpec
from trainers.spec.data import DataSpec
from trainers.spec.model import ModelSpec
from trainers.spec.objective import ObjectiveSpec
from trainers.spec.optim import OptimSpec
from trainers.spec.section import Section
from trainers.spec.tracking import TrackingSpec
from trainers.spec.validation import ValidationSpec


class JobSpec(Section):
    """One run. `spec.toml` in the run folder is this, and can be fed back in."""

    model: ModelSpec = Field(default_factory=ModelSpec, description="Base model")
    data: DataSpec = Field(default_factory=DataSpec, description="Pictures")
    adapter: AdapterSpec = Field(default_factory=AdapterSpec, description="Adapter")
    objective: ObjectiveSpec = Field(default_factory=ObjectiveSpec, description="Loss")
    optim: OptimSpec = Field(default_factory=OptimSpec, description="Optimizer")
    schedule: ScheduleSpec = Field(
        default_factory=lambda: ScheduleSpec(steps=1500), description="Length and batches"
    )
    validation: ValidationSpec = Field(
        default_factory=ValidationSpec, description="Validation, and when to stop"
    )
    preview: PreviewSpec = Field(default_factory=PreviewSpec, description="Previews")
    save: SaveSpec = Field(default_factory=SaveSpec, description="Saving")
    tracking: TrackingSpec = Field(default_factory=TrackingSpec, description="Tracking")

    @property
    def trains_text(self) -> bool:
        """Whether a text encoder is trained, so that prompts change and can't be kept encoded."""
        rates = (self.optim.lr_text, self.optim.lr_text_2 or 0)
        return self.adapter.text_targets != "none" and max(rates) > 0

    @model_validator(mode="after")
    def _adapter_fits_the_method(self) -> JobSpec:
        adapter = self.adapter
        dropouts = (adapter.rank_dropout, adapter.module_dropout, adapter.neuron_dropout)
        if self.model.compile and any(dropouts):
            raise ValueError(
                "model.compile: adapter.rank_dropout, adapter.module_dropout and "
                "adapter.neuron_dropout draw their masks outside of what can be compiled. Leave "
                "one or the other out"
            )
        if self.optim.max_norm is not None and self.adapter.kind not in ("lora", "rslora"):
            raise ValueError(
                f"optim.max_norm is for adapter.kind lora and rslora, not {self.adapter.kind}: "
                "leave it out"
            )
        return self

    @model_validator(mode="after")
    def _warm_up_ends(self) -> JobSpec:
        steps, rising = self.schedule.steps, self.optim.lr_warmup_steps
        if steps is not None and rising is not None and rising >= steps > 0 and rising > 0:
            raise ValueError(
                f"optim.lr_warmup_steps ({rising}) must be below schedule.steps ({steps}), or the "
                "rate never gets where it should be: lower it"
            )
        return self

    @model_validator(mode="after")
    def _lora_plus_needs_b(self) -> JobSpec:
        if self.optim.lora_plus_ratio is not None and self.adapter.kind not in HAS_B:
            raise ValueError(
                f"optim.lora_plus_ratio is for adapter.kind {' or '.join(HAS_B)} only, which "
                f"have a B: {self.adapter.kind} has none. Unset it"
            )
        return self

    @model_validator(mode="after")
    def _cached_captions_change(self) -> JobSpec:
        data = self.data
        if self.trains_text or data.cache == "off" or data.cache_variants > 1:
            return self
        for name in ("shuffle_parts", "part_dropout", "wildcards"):
            if getattr(data, name):
                raise ValueError(
                    f"data.{name} and data.cache_variants = 1 do not go together: the one cached "
                    "version never changes. Raise data.cache_variants, set data.cache to off, or "
                    "train the text encoder (optim.lr_text)"
                )
        return self


DEFAULT_STEPS = 1500
SECTION_NAMES = tuple(JobSpec.model_fields)
