"""What kind of file a list of tensor names belongs to. No torch, no tensor read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from lora_diffusion.shapes import Shape

Format = Literal[
    "kohya", "diffusers", "peft", "lycoris", "legacy", "checkpoint", "embedding", "unknown"
]

# First match wins. Each pattern is searched in every name.
_FORMATS: tuple[tuple[Format, re.Pattern[str]], ...] = (
    ("kohya", re.compile(r"lora_(unet|te|te1|te2|te3)_[^.]*\..+")),
    ("lycoris", re.compile(r"lycoris_[^.]*\..+")),
    ("legacy", re.compile(r"(unet|text_encoder):\d+:(up|down)")),
    ("peft", re.compile(r"base_model\.model\..*lora_.*")),
    (
        "diffusers",
        re.compile(r".+(\.lora_[AB]\.|\.lora\.(up|down)\.|_lora\.(up|down)\.|lora_linear_layer).*"),
    ),
    ("checkpoint", re.compile(r"(model\.diffusion_model|first_stage_model|cond_stage_model)\..+")),
    ("checkpoint", re.compile(r"conditioner\.embedders\..+|model_ema\..+")),
    ("checkpoint", re.compile(r"(down_blocks|up_blocks|mid_block|encoder|decoder)\..+\.weight")),
    ("checkpoint", re.compile(r"(text_model\.)?encoder\.layers\..+\.weight")),
    ("embedding", re.compile(r"emb_params|string_to_param.*|clip_[lg]|<.*>")),
)

# By leaf, most telling first.
_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("loha", re.compile(r"\.hada_[wt]\d")),
    ("lokr", re.compile(r"\.lokr_[wt]\d")),
    ("oft", re.compile(r"\.(oft_|boft_|oft_blocks)")),
    ("glora", re.compile(r"\.[ab][12]\.weight$")),
    ("ia3", re.compile(r"\.on_input$")),
    ("dora", re.compile(r"\.(dora_scale|lora_magnitude_vector)")),
    (
        "lora",
        re.compile(r"lora_down|lora_up|lora_A|lora_B|lora\.down|lora\.up|lora_linear"),
    ),
    ("lora", re.compile(r":(up|down)$")),
    ("full", re.compile(r"\.(diff|diff_b)$")),
)

KIND_NAMES = {
    "loha": "LoHa (LyCORIS, Hadamard product)",
    "lokr": "LoKr (LyCORIS, Kronecker product)",
    "oft": "OFT (orthogonal fine-tuning)",
    "glora": "GLoRA (LyCORIS)",
    "ia3": "IA3 (LyCORIS)",
    "dora": "DoRA (weight-decomposed LoRA)",
    "full": "full difference weights (LyCORIS)",
    "lora": "LoRA",
    "unknown": "unknown kind",
}

_READ_KINDS = ("lora", "dora", "loha", "lokr", "full")

_SDXL_HINT = re.compile(
    r"lora_te[12]_|lora_unet_(input|middle|output)_blocks?_|add_embedding|text_encoder_2\."
)
_OTHER_HINT = re.compile(
    r"lora_te3_|lora_unet_(double|single|joint)_|lora_transformer_|transformer\.|diffusion_model\."
)


@dataclass(frozen=True)
class Dialect:
    """What the names say.

    Attributes:
        format: whose spelling it is.
        kind: `lora`, `dora`, `loha`, `lokr`, `glora`, `ia3`, `oft`, `full` or `unknown`.
        family: `sdxl` or `other` where a name gives it away, else `sd`, which may be any of them.
    """

    format: Format
    kind: str
    family: Literal["sd", "sdxl", "other"]

    @property
    def is_adapter(self) -> bool:
        return self.format not in ("checkpoint", "embedding", "unknown")

    def not_read_because(self) -> tuple[str, str] | None:
        """Why this library does not read such a file, and what to do; None if it does."""
        if self.format == "checkpoint":
            return (
                "it is a full checkpoint (or a part of one), not an adapter",
                "Give it as the base model, and a LoRA file here.",
            )
        if self.format == "embedding":
            return "it is a textual-inversion embedding, not a LoRA", "Give a LoRA file."
        if self.format == "unknown":
            return "none of its tensors belongs to a known kind of adapter", "Give a LoRA file."
        if self.family == "other":
            return (
                "it is made for a model other than Stable Diffusion",
                "Use a LoRA made for SD 1.x, SD 2.x or SDXL.",
            )
        if self.kind not in _READ_KINDS:
            return (
                f"it is {KIND_NAMES[self.kind]}, which isn't read; LoRA, LoCon, DoRA, LoHa, LoKr "
                "and full difference weights are",
                "Extract a LoRA from it with the tool that made it.",
            )
        return None


def identify(names: Collection[str]) -> Dialect:
    """The dialect of a file with these tensor names."""
    return Dialect(_format(names), _kind(names), _family(names))


def kind_of(layers: Iterable[tuple[str, Shape]]) -> str:
    """The kind of a whole adapter: that of most layers, where a layer of DoRA makes it DoRA.

    LoRA with kernels above 1 x 1 is called LoCon.

    Args:
        layers: kind and weight shape of each.
    """
    layers = list(layers)
    counts = Counter(kind for kind, _ in layers)
    kind = "dora" if counts["dora"] else counts.most_common(1)[0][0]
    has_kernels = any(max(shape[2:], default=1) > 1 for of, shape in layers if of == kind)
    return "locon" if kind == "lora" and has_kernels else kind


def _format(names: Collection[str]) -> Format:
    for known, pattern in _FORMATS:
        if any(pattern.fullmatch(name) for name in names):
            return known
    return "unknown"


def _kind(names: Collection[str]) -> str:
    for kind, pattern in _KINDS:
        if any(pattern.search(name) for name in names):
            return kind
    return "unknown"


def _family(names: Collection[str]) -> Literal["sd", "sdxl", "other"]:
    if any(_OTHER_HINT.match(name) for name in names):
        return "other"
    return "sdxl" if any(_SDXL_HINT.search(name) for name in names) else "sd"
