"""Names of the UNet's blocks, and the lists of block weights that A1111's users keep. No torch.

A level of the UNet is `down.1`, `mid` or `up.1`, as in `targets`; `down` and `up` are all levels of
a side. A level's units are numbered: `up.1.0` is its first resnet and attention. In Stable
Diffusion a `down` level has two units, then its downsampler as number 2; an `up` level has three,
the last with the upsampler. `conv_in`, `conv_out` and `time` (the embeddings of timestep and size)
stand outside of the levels.

A1111 counts through the levels of one side, from 0: IN00 is `conv_in`, IN01 `down.0.0`, OUT00
`up.0.0`. Source: Stability-AI/generative-models, openaimodel.py (`input_blocks`, `middle_block`,
`output_blocks`); hako-mikan/sd-webui-lora-block-weight, whose lists of 12, 17, 20 and 26 numbers
begin with the text encoder's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

SIDES = ("down", "mid", "up")
OUTSIDE = ("conv_in", "conv_out", "time")
_ALIASES: Mapping[str, str] = MappingProxyType({"in": "down", "out": "up", "m00": "mid"})
_NAME = re.compile(r"(down|up)(\.\d{1,2}){0,2}|mid|conv_in|conv_out|time")
_NUMBERED = re.compile(r"(in|out)(\d\d)")
_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(?:(resnets|attentions)\.(\d+)\.)?")
_LEVEL_SLOTS = 3  # units of a level in A1111's count, on either side
_SAMPLER_UNIT = 2

BASE = "BASE"  # the text encoders
_IN, _OUT = ([f"{side}{n:02}" for n in range(12)] for side in ("IN", "OUT"))
# How many numbers a list has -> what they are for.
LISTS: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        12: (BASE, *(_IN[n] for n in (4, 5, 7, 8)), "M00", *_OUT[:6]),
        17: (BASE, *(_IN[n] for n in (1, 2, 4, 5, 7, 8)), "M00", *_OUT[3:]),
        20: (BASE, *_IN[:9], "M00", *_OUT[:9]),
        26: (BASE, *_IN, "M00", *_OUT),
    }
)


def block_name(text: str) -> str | None:
    """The block that `text` names, in this module's spelling: `in` is `down`, `IN04` `down.1.0`."""
    lowered = text.lower()
    if numbered := _NUMBERED.fullmatch(lowered):
        side, number = numbered[1], int(numbered[2])
        if side == "in" and number == 0:
            return "conv_in"
        level, unit = divmod(number - (side == "in"), _LEVEL_SLOTS)
        return f"{_ALIASES[side]}.{level}.{unit}"
    side, dot, rest = lowered.partition(".")
    name = _ALIASES.get(side, side) + dot + rest
    return name if _NAME.fullmatch(name) else None


def blocks_of(path: str) -> tuple[str, ...]:
    """The names of the blocks that hold the UNet layer `path`, the smallest block first."""
    if path.startswith("mid_block."):
        return ("mid",)
    found = _LEVEL.match(path)
    if found is None:
        return (path if path in OUTSIDE else "time",)
    side, level, _, unit = found.groups()
    return (f"{side}.{level}.{unit or _SAMPLER_UNIT}", f"{side}.{level}", side)


def from_list(numbers: Sequence[float]) -> tuple[float, dict[str, float]] | None:
    """What a list of 12, 17, 20 or 26 numbers says: the text encoders' and every block's factor.

    Blocks that a shorter list leaves out get 0, as in the extension. None: no list has that length.
    """
    names = LISTS.get(len(numbers))
    if names is None:
        return None
    told = dict(zip(names, numbers, strict=True))
    blocks = {block_name(name) or name: told.get(name, 0.0) for name in LISTS[26][1:]}
    return told[BASE], blocks
