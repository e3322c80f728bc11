"""Settings of the optimizer and the learning rates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trainers.spec.section import Section

OptimizerKind = Literal["adamw", "adamw8bit", "adafactor", "prodigy", "schedulefree", "lion"]
_ADAM: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
# What each optimizer takes of the settings that not every one has, and where its defaults differ.
OPTIMIZER_DEFAULTS: dict[str, dict[str, Any]] = {
    "adamw": _ADAM,
    "adamw8bit": _ADAM,
    "adafactor": {},
    "prodigy": {**_ADAM, "d_coef": 1.0, "lr_unet": 1.0, "lr_text": 1.0},
    "schedulefree": {**_ADAM, "lr_unet": 1e-3, "lr_text": 5e-4, "lr_schedule": "constant"},
    # Chen et al., arXiv:2302.06675, section 5: a rate 3 to 10 times lower, as much more decay
    "lion": {"beta1": 0.9, "beta2": 0.99, "lr_unet": 2e-5, "lr_text": 1e-5, "weight_decay": 0.05},
}
_SCHEDULE_DEFAULTS: dict[str, dict[str, Any]] = {
    "cosine_restarts": {"lr_cycles": 3},
    "polynomial": {"lr_power": 2.0},
}


class OptimSpec(Section):
    """Optimizer and learning rates. Settings left unset take the optimizer's own defaults."""

    kind: OptimizerKind = Field(
        "adamw",
        description="Optimizer: adamw; adamw8bit (less memory, needs bitsandbytes); adafactor "
        "(less memory); prodigy (finds the rate: lr is a factor on it, 1); schedulefree (AdamW "
        "without a schedule, exports its averaged weights); lion (lower rates).",
    )
    lr_unet: float = Field(1e-4, ge=0, le=1, description="Learning rate of the UNet adapter.")
    lr_text: float = Field(
        5e-5, ge=0, le=1, description="Learning rate of the text-encoder adapter; 0 trains none."
    )
    lr_text_2: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Learning rate of the second text encoder's adapter (SDXL); unset is lr_text.",
    )
    lora_plus_ratio: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="LoRA+ (arXiv:2402.12354): the learning rate of B is that of A times this; "
        "the paper's is 16, unset is 1.",
    )
    lr_patterns: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(
        {},
        description="Factor on the learning rate by layer pattern or block, for example "
        '{"mid": 0.5, "*.attn2.*": 2}; last match wins, 0 trains none.',
    )
    lr_schedule: Literal["constant", "cosine", "cosine_restarts", "linear", "polynomial", "rex"] = (
        Field("cosine", description="How the learning rate falls after warm-up.")
    )
    lr_cycles: int | None = Field(
        None, ge=1, le=1000, description="Schedule cosine_restarts: how many cosines (3)."
    )
    lr_power: float | None = Field(
        None, gt=0, le=100, description="Schedule polynomial: its power (2)."
    )
    lr_end_ratio: float = Field(
        0.0, ge=0, le=1, description="Share of the learning rate that a falling schedule ends at."
    )
    lr_warmup_ratio: float = Field(
        0.05, ge=0, le=1, description="Share of all steps in which the learning rate rises."
    )
    lr_warmup_steps: int | None = Field(
        None, ge=0, description="Steps in which the learning rate rises; wins over the ratio."
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decoupled weight decay.")
    beta1: float | None = Field(
        None, ge=0, lt=1, description="First-moment decay (0.9); adafactor has none."
    )
    beta2: float | None = Field(
        None, ge=0, lt=1, description="Second-moment decay (0.999; lion 0.99); adafactor has none."
    )
    epsilon: float | None = Field(
        None, gt=0, le=1e-2, description="Epsilon of the AdamWs and of prodigy (1e-8)."
    )
    d_coef: float | None = Field(
        None, gt=0, le=100, description="Prodigy: factor on the rate that it finds (1)."
    )
    clip_norm: float | None = Field(
        1.0, gt=0, description="Gradient norm is clipped to this; null leaves it alone."
    )
    max_norm: float | None = Field(
        None,
        gt=0,
        description="Max-norm: after each step a layer whose update alpha/r B A has a larger "
        "Frobenius norm is scaled down to it; 1 is usual (kohya's scale_weight_norms).",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Previews and exports show an exponential moving average of the adapter, "
        "for example 0.999; the decay grows to this in the first steps.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_own_defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        filled = dict(values)
        for table, chooser in ((OPTIMIZER_DEFAULTS, "kind"), (_SCHEDULE_DEFAULTS, "lr_schedule")):
            chosen = filled.get(chooser, cls.model_fields[chooser].default)
            for name, value in table.get(str(chosen), {}).items():
                if filled.get(name) is None:
                    filled[name] = value
        return filled

    @model_validator(mode="after")
    def _settings_belong_together(self) -> OptimSpec:
        for chosen, table, label in (
            (self.kind, OPTIMIZER_DEFAULTS, "kind"),
            (self.lr_schedule, _SCHEDULE_DEFAULTS, "lr_schedule"),
        ):
            for name in sorted(set().union(*table.values()) - table.get(chosen, {}).keys()):
                if (
                    type(self).model_fields[name].default is None
                    and getattr(self, name) is not None
                ):
                    raise ValueError(
                        f"optim.{name} is not a setting of optim.{label} {chosen}: leave it unset"
                    )
        if self.kind == "prodigy":
            self._check_prodigy()
        if self.kind == "schedulefree":
            self._check_schedule_free()
        return self

    def _check_prodigy(self) -> None:
        rates = {self.lr_unet, self.lr_text, self.lr_text_2} - {0.0, None}
        if len(rates) > 1:
            raise ValueError(
                "optim.kind prodigy finds one rate for everything: give optim.lr_unet, "
                "optim.lr_text and optim.lr_text_2 the same value (1 is usual), or 0 to train none"
            )
        if self.lora_plus_ratio not in (None, 1) or set(self.lr_patterns.values()) - {0.0, 1.0}:
            raise ValueError(
                "optim.kind prodigy finds one rate for everything: leave out "
                "optim.lora_plus_ratio, and use only 0 and 1 in optim.lr_patterns"
            )

    def _check_schedule_free(self) -> None:
        if self.lr_schedule != "constant":
            raise ValueError(
                "optim.kind schedulefree takes the place of a schedule: set optim.lr_schedule to "
                "constant (warm-up is kept)"
            )
        if self.ema_decay is not None:
            raise ValueError(
                "optim.kind schedulefree averages the weights already: leave out optim.ema_decay"
            )
        if self.beta1 == 0:
            raise ValueError("optim.kind schedulefree needs optim.beta1 above 0; 0.9 is usual")
