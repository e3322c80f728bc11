"""Settings of what is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainers.spec.section import Section

MAX_RANK = 1024
# Settings of the adapter that not every kind has.
HAS_B = ("lora", "rslora", "dora")
_ONLY_FOR = {
    "dora_axis": ("dora",),
    "lokr_factor": ("lokr",),
    "init": (*HAS_B, "lokr"),
    "rank_dropout": HAS_B,
    "neuron_dropout": HAS_B,
}


class AdapterSpec(Section):
    """What is trained: Hu et al., arXiv:2106.09685, h = W0 x + alpha/r B A x, and its relatives."""

    kind: Literal["lora", "dora", "rslora", "loha", "lokr"] = Field(
        "lora",
        description="lora; rslora scales by alpha / sqrt(rank), for high ranks "
        "(arXiv:2312.03732); dora also trains the norms of the weights (arXiv:2402.09353); loha "
        "multiplies two low-rank matrices entry by entry (arXiv:2108.06098); lokr is a Kronecker "
        "product, the smallest file (arXiv:2212.10650).",
    )
    dora_axis: Literal["in", "out"] = Field(
        "in",
        description="Kind dora: norms of input channels, which ComfyUI, Forge and InvokeAI apply "
        "as trained, or of output channels, as PEFT and LyCORIS 3 train them.",
    )
    lokr_factor: int | None = Field(
        None,
        ge=2,
        le=1024,
        description="Kind lokr: channels are split into this many and the rest, or into the "
        "nearest divisor below; unset splits them as evenly as they go. Small means more weights.",
    )
    targets: str = Field(
        "attn",
        description="UNet layers: attn, attn+ff, transformer (plus proj_in/out), all (plus "
        "convolutions), or comma-separated patterns such as '*.attn2.to_k'; mid, up.1 and the like "
        "are blocks.",
    )
    text_targets: str = Field(
        "attn", description="Text-encoder layers: none, attn, attn+ff, or patterns."
    )
    rank: int = Field(16, ge=1, le=MAX_RANK, description="How much the adapter can hold.")
    alpha: float | None = Field(
        None, gt=0, description="Scale is alpha / rank; unset means alpha = rank."
    )
    conv_rank: int | None = Field(
        None,
        ge=1,
        le=MAX_RANK,
        description="Rank of 3x3 convolutions (kohya's conv_dim), which are in targets all; "
        "unset takes rank.",
    )
    conv_alpha: float | None = Field(
        None,
        gt=0,
        description="Alpha of 3x3 convolutions (kohya's conv_alpha); unset keeps alpha : rank.",
    )
    ranks: dict[str, Annotated[int, Field(ge=1, le=MAX_RANK)]] = Field(
        {},
        description='Rank by layer pattern or block, for example {"*.attn2.*": 32, "up.1": 8}; '
        "last match wins.",
    )
    alphas: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="Alpha by layer pattern or block; last match wins."
    )
    init: Literal["kaiming", "gaussian"] = Field(
        "kaiming",
        description="How A starts (B starts at zero); loha has its own start.",
    )
    start_from: str | None = Field(
        None,
        description="Adapter file to begin with, of the same kind and ranks; layers that it lacks "
        "begin fresh.",
    )
    rank_dropout: float = Field(0.0, ge=0, lt=1, description="Share of ranks dropped at a step.")
    module_dropout: float = Field(
        0.0, ge=0, lt=1, description="Chance that a layer's whole update is dropped at a step."
    )
    neuron_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of the values between A and B dropped at a step."
    )

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> AdapterSpec:
        for name, kinds in _ONLY_FOR.items():
            is_set = getattr(self, name) != type(self).model_fields[name].default
            if is_set and self.kind not in kinds:
                raise ValueError(
                    f"adapter.{name} is for adapter.kind {' or '.join(kinds)} only: set that, or "
                    "unset this"
                )
        return self
