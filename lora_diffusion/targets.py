"""Which layers get an adapter: names for the usual sets, and patterns. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypeVar

from lora_diffusion.errors import InputError, printable
from lora_diffusion.keys import UNET, LayerKey

NONE = "none"

_UNET_ATTN = r".*\.attn[12]\.to_(q|k|v|out\.0)"
_UNET_FF = r".*\.ff\.net\.(0\.proj|2)"
_UNET_PROJ = r".*\.attentions\.\d+\.proj_(in|out)"
_UNET_CONV = (
    r".*\.resnets\.\d+\.(conv1|conv2|conv_shortcut|time_emb_proj)|.*\.(down|up)samplers\.0\.conv"
)
# Blocks of the UNet by short name: down, down.1, mid, up, up.1.
_BLOCK = re.compile(r"(down|up)(\.\d+)?|mid")
_TEXT_ATTN = r".*\.self_attn\.(q|k|v|out)_proj"
_TEXT_FF = r".*\.mlp\.fc[12]"

# Each name includes the ones before it. `transformer` is kohya's own default set; `all` adds the
# 86 layers that kohya calls conv_dim on SD1.5.
_UNET_SETS = {
    "attn": (_UNET_ATTN,),
    "attn+ff": (_UNET_ATTN, _UNET_FF),
    "transformer": (_UNET_ATTN, _UNET_FF, _UNET_PROJ),
    "all": (_UNET_ATTN, _UNET_FF, _UNET_PROJ, _UNET_CONV),
}
_TEXT_SETS = {
    "attn": (_TEXT_ATTN,),
    "attn+ff": (_TEXT_ATTN, _TEXT_FF),
    "transformer": (_TEXT_ATTN, _TEXT_FF),
    "all": (_TEXT_ATTN, _TEXT_FF),
}

T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """Rank and alpha of every layer.

    Attributes:
        rank: r.
        alpha: None means alpha = r, whatever r a pattern gives.
        conv_rank: r of convolutions with a kernel above 1x1; None takes `rank`.
        conv_alpha: their alpha; None keeps the proportion alpha : rank of the other layers.
        ranks, alphas: by layer pattern; the last match wins, over the settings above.
    """

    rank: int
    alpha: float | None = None
    conv_rank: int | None = None
    conv_alpha: float | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    def of(self, key: LayerKey, weight_shape: tuple[int, ...]) -> tuple[int, float]:
        """Rank and alpha of a layer, before a kind folds its own scaling into alpha."""
        usual_rank, usual_alpha = self.rank, self.alpha
        if max(weight_shape[2:], default=1) > 1:
            usual_rank = self.rank if self.conv_rank is None else self.conv_rank
            if self.conv_alpha is not None:
                usual_alpha = self.conv_alpha
            elif self.alpha is not None:
                usual_alpha = self.alpha * usual_rank / self.rank
        rank = by_pattern(self.ranks, key, usual_rank)
        alpha = by_pattern(self.alphas, key, usual_alpha)
        return rank, float(rank if alpha is None else alpha)


def select(targets: str, part: str, candidates: Iterable[LayerKey]) -> list[LayerKey]:
    """The keys of `part` that `targets` names.

    Args:
        targets: `none`, one of the sets `attn`, `attn+ff`, `transformer`, `all`, or patterns
            separated by commas (`*.attn2.to_k, up.1`), as `matches` takes them.
        candidates: keys of the layers that can be adapted (linear and 2-D convolution).

    Raises:
        InputError: a pattern that matches nothing, or no target at all.
    """
    if targets == NONE:
        return []
    keys = [key for key in candidates if key.part == part]
    named = (_UNET_SETS if part == UNET else _TEXT_SETS).get(targets)
    if named:
        whole = re.compile("|".join(named))
        return [key for key in keys if whole.fullmatch(key.path)]
    patterns = [p.strip() for p in targets.split(",") if p.strip()]
    chosen: set[LayerKey] = set()
    for pattern in patterns:
        hits = [key for key in keys if matches(pattern, key)]
        if not hits:
            raise InputError(
                f"The target '{printable(pattern)}' matches no layer of the {part}. Use one of "
                f"{', '.join(_UNET_SETS)}, or a pattern such as '*.attn2.to_k'."
            )
        chosen.update(hits)
    if not chosen:
        raise InputError(f"adapter targets of the {part} are empty. Use 'none' to leave it out.")
    return [key for key in keys if key in chosen]


def matches(pattern: str, key: LayerKey) -> bool:
    """Whether a shell-style pattern fits `path` or `part.path`, or a block's name the UNet's block.

    The blocks are `down`, `mid`, `up`, and with a number `down.1`, `up.1` one of them.
    """
    if block := _BLOCK.fullmatch(pattern):
        side, number = block.groups()
        pattern = f"{side}_blocks{number or ''}.*" if side else "mid_block.*"
    return fnmatchcase(key.path, pattern) or fnmatchcase(str(key), pattern)


def check_patterns(setting: str, patterns: Iterable[str], keys: Iterable[LayerKey]) -> None:
    """Raise `InputError` if a pattern of `setting` matches none of the adapted layers `keys`."""
    known = list(keys)
    for pattern in patterns:
        if not any(matches(pattern, key) for key in known):
            raise InputError(
                f"{setting}: '{printable(pattern)}' matches no adapted layer. Patterns look like "
                "'*.attn2.*' or 'text_encoder.*'; 'mid' and 'up.1' are blocks of the UNet."
            )


def by_pattern(table: Mapping[str, T], key: LayerKey, default: T) -> T:
    """The value of the last pattern in `table` that fits `key`, else `default`."""
    value = default
    for pattern, candidate in table.items():
        if matches(pattern, key):
            value = candidate
    return value
