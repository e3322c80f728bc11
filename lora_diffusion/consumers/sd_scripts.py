"""kohya-ss/sd-scripts: `networks.lora`, as its generation and merge scripts load it. No torch.

It makes a module for each `lora_down` that names a layer inside the classes it trains, and fills it
with PyTorch's `load_state_dict`, which skips what has no module and refuses another shape. SDXL's
layers go by their original names; diffusers' are turned into them.
Source: kohya-ss/sd-scripts, networks/lora.py (`create_network_from_weights`, `LoRANetwork`).
"""

from __future__ import annotations

import re

from lora_diffusion.consumers.report import Reading, Report
from lora_diffusion.consumers.target import Target, prefixed
from lora_diffusion.consumers.view import KIND_WORDS, KOHYA, FileView, Module
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET, LayerKey

NAME = "sd-scripts"
# What lies inside Transformer2DModel, ResnetBlock2D, Downsample2D, Upsample2D, CLIPAttention,
# CLIPMLP.
_TRAINED = re.compile(
    r".*\.(attentions|resnets|downsamplers|upsamplers)\.\d+\..+|.*\.(self_attn|mlp)\..+"
)


def read(view: FileView, target: Target) -> Report:
    """What sd-scripts takes of the file."""
    reading = Reading(NAME, view)
    names = _names(target)
    reading.drop(view.strays, "networks.lora knows no such key")
    for module in view.modules:
        key = names.get(module.stem)
        if key is None:
            reading.drop_module(module, f"{target.name} has no layer of this name in networks.lora")
        elif module.kind == "tucker":
            return reading.refused("it refuses Tucker's lora_mid: the factors have other shapes")
        elif module.kind != "lora" or module.spelling != KOHYA or not module.is_whole:
            what = KIND_WORDS[module.kind]
            reading.drop_module(module, f"networks.lora reads lora_down and lora_up, not {what}")
        elif not _fits(module, target.shapes[key]):
            return reading.refused(
                f"it refuses the file: '{module.stem}' has other shapes than the layer of "
                f"{target.name}"
            )
        elif "dora_scale" in module.names:
            reading.drop([module.names["dora_scale"]], "it ignores dora_scale")
            reading.differ(module, "without dora_scale it is a plain LoRA, another delta")
    return reading.report()


def _names(target: Target) -> dict[str, LayerKey]:
    names = prefixed("lora_unet_", target.text(UNET))
    if target.arch == "sdxl":
        names |= prefixed("lora_unet_", target.original_unet)
        names |= prefixed("lora_te1_", target.text(TEXT_ENCODER))
        names |= prefixed("lora_te2_", target.text(TEXT_ENCODER_2))
    else:
        names |= prefixed("lora_te_", target.text(TEXT_ENCODER))
    return {name: key for name, key in names.items() if _TRAINED.fullmatch(key.path)}


def _fits(module: Module, weight: tuple[int, ...]) -> bool:
    return not weight or strict_shapes(module) == weight


def strict_shapes(module: Module) -> tuple[int, ...]:
    """The weight shape that a pair of factors fits without reshaping; () if there is none."""
    down, up = module.shapes["down"], module.shapes["up"]
    if len(down) != len(up) or up[1:] != (down[0], *(1 for _ in down[2:])):
        return ()
    return (up[0], *down[1:])
