"""SDXL's UNet layers by the names of its original code (`sgm`), which its LoRA files use. No torch.

Stability-AI/generative-models numbers all blocks of one direction in a row, and inside a block puts
resnet, attention and resampler in numbered slots. sd-scripts trains that code's UNet, so its SDXL
files spell `input_blocks.4.1…` where diffusers says `down_blocks.1.attentions.0…`.

For each resolution level, down: two units and a downsampler, three slots in the row; up: three
units, the last with the upsampler. Source: Stability-AI/generative-models,
sgm/modules/diffusionmodules/openaimodel.py, `UNetModel.__init__`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from lora_diffusion.formats.layer_names import flatten, unet_paths
from lora_diffusion.keys import UNET, LayerKey

_LEVEL_SLOTS = 3
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNIT = re.compile(
    r"(?:(?P<side>down|up)_blocks\.(?P<level>\d+)|mid_block)"
    r"\.(?P<kind>resnets|attentions)\.(?P<unit>\d+)\.(?P<rest>.+)"
)
_SAMPLER = re.compile(r"(?P<side>down|up)_blocks\.(?P<level>\d+)\.(?:down|up)samplers\.0\.conv")


def sgm_path(path: str) -> str:
    """The original code's dotted path of the UNet layer that diffusers calls `path`.

    Raises:
        KeyError: no such layer.
    """
    if path in _OUTSIDE:
        return _OUTSIDE[path]
    sampler = _SAMPLER.fullmatch(path)
    if sampler:
        level = int(sampler["level"])
        if sampler["side"] == "down":
            return f"input_blocks.{_LEVEL_SLOTS * (level + 1)}.0.op"
        # Every level of SDXL that is upsampled has attention, which takes slot 1.
        return f"output_blocks.{_LEVEL_SLOTS * level + 2}.2.conv"
    unit = _UNIT.fullmatch(path)
    if unit is None:
        raise KeyError(path)
    index, is_attention = int(unit["unit"]), unit["kind"] == "attentions"
    rest = unit["rest"] if is_attention else _RESNET[unit["rest"]]
    if unit["side"] is None:  # resnet, attention, resnet
        return f"middle_block.{2 * index + is_attention}.{rest}"
    slot = _LEVEL_SLOTS * int(unit["level"]) + index
    if unit["side"] == "down":
        return f"input_blocks.{1 + slot}.{int(is_attention)}.{rest}"
    return f"output_blocks.{slot}.{int(is_attention)}.{rest}"


@cache
def by_flat_sgm_name() -> Mapping[str, LayerKey]:
    """Flattened original name -> key, of every UNet layer. The table is shared and fixed."""
    table: dict[str, LayerKey] = {}
    for path in unet_paths():
        name = flatten(sgm_path(path))
        assert name not in table, f"{path} is spelled like {table[name].path}"
        table[name] = LayerKey(UNET, path)
    return MappingProxyType(table)
