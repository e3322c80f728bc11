"""Settings of the loss."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from trainers.spec.section import Section


class ObjectiveSpec(Section):
    """The loss: Ho et al., arXiv:2006.11239, eq. 14, with DreamBooth's prior term."""

    kind: Literal["mse", "huber"] = Field(
        "mse",
        description="Distance between prediction and target: mse, or pseudo-Huber, which lets "
        "odd pictures pull less (arXiv:2403.16728).",
    )
    huber_width: float | None = Field(
        None, gt=0, le=10, description="Kind huber: errors above this count linearly (0.1)."
    )
    huber_schedule: Literal["constant", "exponential", "snr"] | None = Field(
        None,
        description="Kind huber: how the width runs over the timesteps: constant, or from 1 "
        "without noise down to huber_width (exponential, snr).",
    )
    prior_weight: float = Field(
        1.0, ge=0, le=10, description="Weight of class pictures in the loss (DreamBooth's lambda)."
    )
    min_snr_gamma: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Min-SNR weighting (arXiv:2303.09556); 5 is usual, unset weighs evenly.",
    )
    debiased: bool = Field(
        False, description="Debiased estimation: weighs by 1 / sqrt(SNR) (arXiv:2310.08442)."
    )
    v_like_epsilon: bool = Field(
        False,
        description="v-prediction bases: weighs each timestep as epsilon-prediction does "
        "(kohya's scale_v_pred_loss_like_noise_pred).",
    )
    noise_offset: float = Field(
        0.0, ge=0, le=1, description="Adds a constant per channel to the noise, for dark and light."
    )
    multires_levels: int = Field(
        0,
        ge=0,
        le=10,
        description="Multi-resolution noise: how many coarser levels are added; 6 is usual.",
    )
    multires_discount: float = Field(
        0.3, gt=0, lt=1, description="Multi-resolution noise: strength of a level by the last."
    )
    input_perturbation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Extra noise in the input that is not in the target (arXiv:2301.11706); "
        "0.1 is usual.",
    )
    timestep_min: int = Field(0, ge=0, description="First timestep that is trained (0: no noise).")
    timestep_max: int | None = Field(
        None, ge=1, description="Timesteps below this are trained; unset is all, usually 1000."
    )
    timestep_shift: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Above 1 trains noisy timesteps (composition) more often, below 1 clean ones "
        "(detail); 3 and 0.33 are strong.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_own_defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") == "huber":
            own = {"huber_width": 0.1, "huber_schedule": "exponential"}
            return {**own, **{name: v for name, v in values.items() if v is not None}}
        return values

    @model_validator(mode="after")
    def _settings_belong_together(self) -> ObjectiveSpec:
        if self.kind != "huber" and (self.huber_width or self.huber_schedule):
            raise ValueError(
                "objective.huber_width and objective.huber_schedule are for objective.kind huber: "
                "set that, or leave them out"
            )
        weightings = (self.min_snr_gamma is not None, self.debiased, self.v_like_epsilon)
        if sum(weightings) > 1:
            raise ValueError(
                "objective.min_snr_gamma, objective.debiased and objective.v_like_epsilon each "
                "weigh the timesteps: set one of them"
            )
        if self.timestep_max is not None and self.timestep_max <= self.timestep_min:
            raise ValueError(
                f"objective.timestep_max ({self.timestep_max}) must be above "
                f"objective.timestep_min ({self.timestep_min})"
            )
        return self
