"""Where layers are: the blocks of a model, and a row and a column of a map for each. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lora_diffusion.composition.blocks import blocks_of
from lora_diffusion.keys import UNET, LayerKey

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(.+)|(mid)_block\.(.+)")
_UNIT = re.compile(
    r"(?:attentions\.(\d+)\.)(?:transformer_blocks\.(\d+)\.)?(.+)"
    r"|(?:resnets\.(\d+)\.)(.+)|(?:(down|up)samplers\.0\.)(.+)"
)
_TEXT = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(?:self_attn|mlp)\.(.+)")
_SHORT = {
    "attn1.to_q": "self q",
    "attn1.to_k": "self k",
    "attn1.to_v": "self v",
    "attn1.to_out.0": "self out",
    "attn2.to_q": "cross q",
    "attn2.to_k": "cross k",
    "attn2.to_v": "cross v",
    "attn2.to_out.0": "cross out",
    "ff.net.0.proj": "ff in",
    "ff.net.2": "ff out",
    "proj_in": "proj in",
    "proj_out": "proj out",
    "conv_shortcut": "shortcut",
    "time_emb_proj": "time",
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "out_proj": "out",
}
ORDER = (*_SHORT.values(), "conv1", "conv2", "conv", "fc1", "fc2")


@dataclass(frozen=True, order=True)
class Place:
    """Where a layer stands on a map.

    Attributes:
        panel: `attention`, `convolutions`, `text encoder`, `text encoder 2` or `others`.
        block: as weights call it: `down.1`, `mid`, `up.0`, `conv_in`, `conv_out`, `time`; for text
            encoders the part's name.
        row: `down.1 att 0`.
        column: `cross k`.
    """

    panel: str
    block: str
    row: str
    column: str


def place_of(key: LayerKey) -> Place:
    """Where on a map the layer `key` stands."""
    if key.part != UNET:
        panel = key.part.replace("_", " ")
        found = _TEXT.fullmatch(key.path)
        number, leaf = found.groups() if found else ("", key.path)
        return Place(panel, key.part, f"layer {number}".strip(), _SHORT.get(leaf, leaf))
    in_block = _BLOCK.fullmatch(key.path)
    if in_block is None:
        return Place("others", blocks_of(key.path)[0], key.path, "weight")
    side, number, rest, mid, mid_rest = in_block.groups()
    block = mid or f"{side}.{number}"
    unit = _UNIT.fullmatch(rest or mid_rest)
    if unit is None:
        return Place("others", block, key.path, "weight")
    attention, transformer, leaf, resnet, conv, sampler, sampled = unit.groups()
    if leaf:
        deep = f".{transformer}" if transformer not in (None, "0") else ""
        return Place("attention", block, f"{block} att {attention}{deep}", _SHORT.get(leaf, leaf))
    row = f"{block} res {resnet}" if conv else f"{block} {sampler}sampler"
    leaf = conv or sampled
    return Place("convolutions", block, row, _SHORT.get(leaf, leaf))
