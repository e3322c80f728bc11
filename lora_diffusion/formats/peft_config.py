"""PEFT's LoRA configuration: which alpha each layer has. No torch.

A folder of PEFT has it in `adapter_config.json`; diffusers writes the same fields into the metadata
of its file. Alpha is `lora_alpha`, unless a pattern of `alpha_pattern` fits the layer; with
`use_rslora` the scale is alpha / sqrt(r), which is told here as alpha * sqrt(r).
Source: huggingface/peft, src/peft/tuners/lora/{config,model,layer}.py, utils/other.py
(`get_pattern_key`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from lora_diffusion.errors import printable
from lora_diffusion.formats.header import refuse

DEFAULT_ALPHA = 8
MAX_PATTERNS = 2_000

# A pattern is a regular expression. Those without repetition other than one `.*` are bounded in
# time; a file could hold anything else.
_SAFE_PATTERN = re.compile(r"\^?[A-Za-z0-9_.\\|()-]*(\.[*+])?[A-Za-z0-9_.\\|()-]*\$?")
_PLAIN = re.compile(r"\^?[A-Za-z0-9_.]+\$?")
# These train factors against a base from which something was taken at the start.
_MOVES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_MORE_THAN_LORA = ("modules_to_save", "trainable_token_indices", "use_qalora", "kasa_config")


def layer_alphas(
    source: str | Path, config: Mapping[str, object], ranks: Mapping[str, int]
) -> dict[str, float]:
    """alpha of each layer, so that alpha / rank is the scale PEFT uses.

    Args:
        source: file name for messages.
        config: the fields of a `LoraConfig`.
        ranks: path of each layer, as the model names it -> r.

    Raises:
        AdapterFileError: the configuration is not LoRA's, malformed, or for factors that don't
            belong to the original base.
    """
    check_config(source, config)
    default = _number(source, "lora_alpha", config.get("lora_alpha", DEFAULT_ALPHA))
    patterns = _patterns(source, config.get("alpha_pattern"))
    exact = {
        name.removeprefix("^").removesuffix("$"): alpha
        for name, alpha in patterns.items()
        if _PLAIN.fullmatch(name)
    }
    # PEFT takes the first pattern that fits; full paths, which all tools write, fit one layer only.
    compiled = [
        (_compiled(source, name), alpha)
        for name, alpha in patterns.items()
        if name.removeprefix("^").removesuffix("$") not in ranks
    ]
    is_rank_stabilised = config.get("use_rslora") is True
    alphas = {}
    for path, rank in ranks.items():
        alpha = exact.get(path)
        if alpha is None:
            alpha = next((a for pattern, a in compiled if pattern.match(path)), default)
        alphas[path] = alpha * math.sqrt(rank) if is_rank_stabilised else alpha
    return alphas


def check_config(source: str | Path, config: Mapping[str, object]) -> None:
    """Refuse what is no LoRA, or none for the original base.

    Raises:
        AdapterFileError
    """
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        refuse(
            source,
            f"it is PEFT's '{printable(kind, 40)}'",
            "Only LoRA and DoRA are read from PEFT.",
        )
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(_MOVES_THE_BASE):
        refuse(
            source,
            f"its training began by changing the base ('{printable(start, 40)}')",
            "Save it with PEFT's path_initial_model_for_weight_conversion, which makes it a LoRA "
            "for the original base.",
        )
    for setting in _MORE_THAN_LORA:
        if config.get(setting):
            refuse(source, f"its configuration sets '{setting}', which is more than a LoRA")


def _patterns(source: str | Path, value: object) -> dict[str, float]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_PATTERNS:
        refuse(source, "its alpha_pattern is not a table of numbers")
    return {str(name): _number(source, "alpha_pattern", alpha) for name, alpha in value.items()}


def _number(source: str | Path, field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        refuse(source, f"its {field} is not a number")
    return float(value)


def _compiled(source: str | Path, pattern: str) -> re.Pattern[str]:
    if len(pattern) <= 200 and _SAFE_PATTERN.fullmatch(pattern):
        try:
            # PEFT's rule: the pattern fits the end of the path, from a dot on.
            return re.compile(rf"(.*\.)?({pattern})$")
        except re.error:
            pass
    refuse(
        source,
        f"its alpha_pattern '{printable(pattern, 80)}' is a kind of expression that isn't read",
        "Save the adapter again with the layers' full names.",
    )
