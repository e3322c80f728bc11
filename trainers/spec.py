"""`JobSpec`: everything a run needs, declared once, for command line, TOML file and form.

No torch here. Each field carries its help (`description`) and bounds; `--help`, the studio's form
and the error messages are made from them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_RANK = 1024
_NAME_PATTERN = re.compile(r"[^\\/:*?\"<>|\x00-\x1f]+")


# Settings of the adapter that not every kind has.
_HAS_B = ("lora", "rslora", "dora")
_ONLY_FOR = {
    "dora_axis": ("dora",),
    "lokr_factor": ("lokr",),
    "init": (*_HAS_B, "lokr"),
    "rank_dropout": _HAS_B,
    "neuron_dropout": _HAS_B,
}


class Section(BaseModel):
    """One frozen group of settings; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelSpec(Section):
    """The base model and how it is held in memory."""

    base: str = Field(
        "bundled:demo_base",
        description="Base model: a diffusers folder, a .safetensors or .ckpt file, or a hub id.",
    )
    tokenizer: str | None = Field(
        None,
        description="Folder with the CLIP tokenizer, for a single-file base with no hub at hand.",
    )
    arch: Literal["auto", "sd15", "sd21", "sdxl"] = Field(
        "auto", description="What the base has to be; auto takes what it is."
    )
    prediction: Literal["auto", "epsilon", "v_prediction"] = Field(
        "auto",
        description="What the UNet predicts; auto reads it from the base, and settles it where the "
        "base does not say.",
    )
    zero_snr: bool | None = Field(
        None,
        description="Noise schedule that ends without signal, as NoobAI's v-prediction models have "
        "it (arXiv:2305.08891); unset reads it from the base.",
    )
    clip_skip: int = Field(
        1, ge=1, le=4, description="Which text-encoder layer is used, counted from the last (1)."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Arithmetic of the frozen base; adapters train in fp32. auto: bf16 on a GPU "
        "that has it, fp16 on an older one, fp32 on the CPU.",
    )
    attention: Literal["sdpa", "xformers", "sliced"] = Field(
        "sdpa",
        description="Attention: torch's own kernels; xformers (its extra and a GPU); sliced, a "
        "head at a time, for devices without a kernel that saves memory.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, slower."
    )
    low_memory: bool = Field(
        False,
        description="The UNet waits in main memory until the pictures are encoded, and previews "
        "are drawn one at a time: less GPU memory at its peak.",
    )
    fp8_base: bool = Field(
        False,
        description="Keep the frozen UNet in 8 bits (fp8 e4m3) and compute in bf16 or fp16: half "
        "its memory, slightly off; of use with gradient_checkpointing.",
    )
    compile: bool = Field(
        False, description="Compile the UNet (torch.compile): minutes at first, faster on GPUs."
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads; unset leaves the choice to torch."
    )


class SubsetSpec(Section):
    """One folder of a dataset that is made of several."""

    folder: str = Field(description="Folder of pictures.")
    name: str | None = Field(None, description="Unset takes the folder's name.")
    repeats: int = Field(
        1, ge=1, le=10_000, description="How often an epoch shows each of its pictures."
    )
    weight: float = Field(1.0, ge=0, le=100, description="Factor on the loss of its pictures.")
    is_class: bool = Field(
        False, description="Regularisation pictures: they show the class, not the subject."
    )
    trigger: str | None = Field(
        None, description='Trigger word; unset takes data.trigger, "" uses none.'
    )
    instance_prompt: str | None = Field(
        None,
        description="Caption of pictures that have none; unset takes data.instance_prompt.",
    )
    caption_ending: str | None = Field(
        None,
        pattern=r"^\.[A-Za-z0-9_.-]{1,20}$",
        description="Ending of the caption files; unset takes .txt, then .caption.",
    )
    caption_table: str | None = Field(
        None, description="JSON or JSON lines of captions; unset takes data.caption_table."
    )
    mask_folder: str | None = Field(
        None, description="Folder of masks that have the pictures' names: white is learned."
    )


class DataSpec(Section):
    """The pictures, their captions, and the prior-preservation pictures."""

    folder: str = Field(
        "bundled:demo_character",
        description="Folder of pictures; a .txt or .caption beside a picture is its caption. Tars "
        "in it are WebDataset shards; a pattern such as a-{000..123}.tar names them too.",
    )
    nested: bool = Field(True, description="Also take the pictures of folders within the folder.")
    kohya_folders: bool = Field(
        True,
        description="A folder named N_concept, N up to 999, shows its pictures N times an epoch; "
        "the concept is the caption of those that have none.",
    )
    subsets: tuple[SubsetSpec, ...] = Field(
        (),
        description="Several folders with settings of their own, in place of data.folder: "
        "[[data.subsets]] in a TOML file.",
    )
    caption_table: str | None = Field(
        None,
        description="JSON lines with file_name and text, or kohya's metadata JSON; a folder's "
        "metadata.jsonl is found by itself.",
    )
    caption_lines: bool = Field(
        False,
        description="Each line of a caption file is a caption of its own; a visit takes one.",
    )
    caption_encoding: str | None = Field(
        None,
        description="Encoding of caption files that are not UTF-8, such as cp1252 or cp932; unset "
        "refuses them.",
    )
    picture_text: bool = Field(
        False,
        description="Pictures without a caption take the prompt in their PNG or EXIF text.",
    )
    max_megapixels: int = Field(
        100, ge=1, le=1_000, description="Larger pictures are refused before they are decoded."
    )
    trigger: str | None = Field(
        None,
        description="The word that calls the subject up. It is put before captions that lack it.",
    )
    instance_prompt: str = Field(
        "a photo of {trigger}",
        description="Caption of pictures that have no caption file; {trigger} is filled in.",
    )
    resolution_px: int | None = Field(
        None,
        ge=32,
        le=4096,
        multiple_of=8,
        description="Side (px) of the square that no training crop has more pixels than; unset "
        "takes the base's own.",
    )
    buckets: bool = Field(
        True,
        description="Crop each picture to the proportions nearest to its own; off crops all to a "
        "square.",
    )
    bucket_min_px: int | None = Field(
        None, ge=8, le=8192, description="Shortest side of a crop; unset is half the resolution."
    )
    bucket_max_px: int | None = Field(
        None, ge=8, le=8192, description="Longest side of a crop; unset is double the resolution."
    )
    bucket_step_px: int | None = Field(
        None,
        ge=8,
        le=1024,
        multiple_of=8,
        description="Sides of crops are multiples of this; unset takes what the UNet halves "
        "evenly, such as 64 for SD and 32 for SDXL.",
    )
    upscale: bool = Field(
        False, description="With buckets: enlarge pictures that are smaller than the resolution."
    )
    flip: float = Field(
        0.0, ge=0, le=1, description="Chance that a picture is shown mirrored, left to right."
    )
    random_crop: bool = Field(
        False, description="Crop anywhere in the picture rather than in its middle."
    )
    colour_jitter: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Brightness, contrast and saturation change by up to this share, each visit "
        "anew.",
    )
    masked_loss: bool = Field(
        False,
        description="Learn only what a picture's mask shows white: its file in a subset's "
        "mask_folder, or else the picture's alpha.",
    )
    unmasked_weight: float = Field(
        0.0, ge=0, le=1, description="Weight in the loss of what the mask leaves out."
    )
    caption_dropout: float = Field(
        0.0, ge=0, le=1, description="Share of steps in which a picture is shown with no caption."
    )
    caption_parts: Literal["tags", "sentences"] = Field(
        "tags",
        description="What shuffle_parts, keep_parts and part_dropout take a caption apart into: "
        "tags between commas, or sentences.",
    )
    shuffle_parts: bool = Field(
        False, description="Show the parts of a caption in a new order each visit."
    )
    keep_parts: int = Field(
        0, ge=0, le=100, description="Parts at the beginning that are not moved and not dropped."
    )
    part_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Chance of each part of a caption to be left out; the trigger never is.",
    )
    wildcards: bool = Field(
        False, description="In captions, draw one of {a|b}, and for __name__ a line of name.txt."
    )
    wildcard_folder: str | None = Field(None, description="Folder with those files.")
    cache: Literal["memory", "disk", "off"] = Field(
        "memory",
        description="Where encoded pictures and captions are kept: memory; disk, which the next "
        "run finds again; off encodes at each step.",
    )
    cache_folder: str | None = Field(
        None, description="Folder of the disk cache; unset is ~/.cache/lora-diffusion."
    )
    cache_variants: int = Field(
        8,
        ge=1,
        le=1000,
        description="How many versions of a picture or a caption are kept where crop, colours or "
        "words change from visit to visit.",
    )
    class_prompts: tuple[str, ...] = Field(
        (),
        description="Prompts without the trigger; the base draws the class pictures from them.",
    )
    class_folder: str | None = Field(
        None, description="Folder of class pictures; missing ones are drawn into it by the base."
    )
    class_pictures: int = Field(
        0, ge=0, le=10_000, description="Class pictures for prior preservation; 0 trains without."
    )
    class_fraction: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of each batch that is class pictures (DreamBooth's pairs are 0.5).",
    )

    @model_validator(mode="after")
    def _settings_belong_together(self) -> DataSpec:
        needs = (
            ("bucket_min_px", self.bucket_min_px, "data.buckets", self.buckets),
            ("bucket_max_px", self.bucket_max_px, "data.buckets", self.buckets),
            ("bucket_step_px", self.bucket_step_px, "data.buckets", self.buckets),
            ("upscale", self.upscale, "data.buckets", self.buckets),
            ("unmasked_weight", self.unmasked_weight, "data.masked_loss", self.masked_loss),
            (
                "keep_parts",
                self.keep_parts,
                "data.shuffle_parts or data.part_dropout",
                self.shuffle_parts or self.part_dropout,
            ),
            ("wildcard_folder", self.wildcard_folder, "data.wildcards", self.wildcards),
            ("cache_folder", self.cache_folder, "data.cache disk", self.cache == "disk"),
            (
                "subsets' mask_folder",
                any(subset.mask_folder for subset in self.subsets),
                "data.masked_loss",
                self.masked_loss,
            ),
        )
        for name, value, other, is_there in needs:
            if value and not is_there:
                raise ValueError(f"data.{name} needs {other}: set that too, or leave this out")
        for name, changes in (
            ("random_crop", self.random_crop),
            ("colour_jitter", self.colour_jitter),
        ):
            if changes and self.cache != "off" and self.cache_variants == 1:
                raise ValueError(
                    f"data.{name} and data.cache_variants = 1 do not go together: the one cached "
                    "version never changes. Raise data.cache_variants, or set data.cache to off"
                )
        return self

    @model_validator(mode="after")
    def _class_needs_prompts(self) -> DataSpec:
        if self.class_pictures and not (self.class_prompts or self.class_folder):
            raise ValueError(
                "data.class_pictures needs data.class_prompts or data.class_folder: say what the "
                "class pictures show, for example --data.class_prompts '[\"a photo of a dog\"]'"
            )
        return self


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
        "convolutions), or comma-separated patterns such as '*.attn2.to_k'.",
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
        {}, description='Rank by layer pattern, for example {"*.attn2.*": 32}; last match wins.'
    )
    alphas: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="Alpha by layer pattern; last match wins."
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
        description="Factor on the learning rate by layer pattern, for example "
        '{"*.mid_block.*": 0.5}; last match wins, 0 trains none.',
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


class ScheduleSpec(Section):
    """How long a run is, and its batches."""

    steps: int | None = Field(
        None, ge=1, le=10_000_000, description="Training steps; wins over epochs."
    )
    epochs: int | None = Field(
        None, ge=1, le=1_000_000, description="Length in passes over the pictures."
    )
    batch_size: int = Field(1, ge=1, le=1024, description="Pictures per step and device.")
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
    preview: PreviewSpec = Field(default_factory=PreviewSpec, description="Previews")
    save: SaveSpec = Field(default_factory=SaveSpec, description="Saving")

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
    def _lora_plus_needs_b(self) -> JobSpec:
        if self.optim.lora_plus_ratio is not None and self.adapter.kind not in _HAS_B:
            raise ValueError(
                f"optim.lora_plus_ratio is for adapter.kind {' or '.join(_HAS_B)} only, which "
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
