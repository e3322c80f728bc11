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
from collections.abc import Iterable, Mapping
from pathlib import Path

from lora_diffusion.errors import printable
from lora_diffusion.formats.header import refuse

DEFAULT_ALPHA = 8
MAX_PATTERNS = 5_000
MAX_EXPRESSIONS = 200

# A pattern is a regular expression. Those without repetition other than one `.*`, and with few
# alternatives, are bounded in time; a file could hold anything else.
_SAFE_PATTERN = re.compile(r"\^?[A-Za-z0-9_.\\|()-]*(\.[*+])?[A-Za-z0-9_.\\|()-]*\$?")
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")
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
    is_rank_stabilised = config.get("use_rslora") is True
    alphas = {}
    for path, alpha in _first_fits(source, patterns, ranks).items():
        chosen = default if alpha is None else alpha
        alphas[path] = chosen * math.sqrt(ranks[path]) if is_rank_stabilised else chosen
    return alphas


def _first_fits(
    source: str | Path, patterns: Mapping[str, float], paths: Iterable[str]
) -> dict[str, float | None]:
    """For each path the value of the first pattern that fits its end, from a dot on, as PEFT does.

    Full names, of which a file may hold a thousand, are looked up instead of matched.
    """
    names: dict[str, tuple[int, float]] = {}
    whole: dict[str, tuple[int, float]] = {}
    expressions: list[tuple[int, float, re.Pattern[str]]] = []
    for order, (pattern, value) in enumerate(patterns.items()):
        name = pattern.removeprefix("^").removesuffix("$")
        if _PLAIN.fullmatch(name):
            (names if name == pattern.removesuffix("$") else whole).setdefault(name, (order, value))
        else:
            expressions.append((order, value, _compiled(source, pattern)))
    if len(expressions) > MAX_EXPRESSIONS:
        refuse(source, f"its alpha_pattern has more than {MAX_EXPRESSIONS} expressions")
    found: dict[str, float | None] = {}
    for path in paths:
        segments = path.split(".")
        ends = (".".join(segments[i:]) for i in range(len(segments)))
        fits = [names[end] for end in ends if end in names]
        fits += [whole[path]] if path in whole else []
        fits += [(order, value) for order, value, expr in expressions if expr.match(path)]
        found[path] = min(fits)[1] if fits else None
    return found


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
    is_short = len(pattern) <= 200 and pattern.count("(") <= 4 and pattern.count("|") <= 8
    if is_short and _SAFE_PATTERN.fullmatch(pattern):
        try:
            return re.compile(rf"(.*\.)?({pattern})$")
        except re.error:
            pass
    refuse(
        source,
        f"its alpha_pattern '{printable(pattern, 80)}' is a kind of expression that isn't read",
        "Save the adapter again with the layers' full names.",
    )
