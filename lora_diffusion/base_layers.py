"""The layers of a base model and the shapes of their weights, from its configuration. No torch.

`layer_names` has the paths that any Stable Diffusion may have; this tells which of them one base
has. Shapes: linear `[out, in]`, convolution `[out, in, kh, kw]`.
Source: huggingface/diffusers, models/unets/unet_2d_condition.py and unet_2d_blocks.py;
huggingface/transformers, models/clip/modeling_clip.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET, LayerKey

Shape = tuple[int, ...]
Named = tuple[str, Shape]

_CONFIGS = Path(__file__).resolve().parent / "families" / "configs"
_TIME_WIDTHS = 4  # the time embedding is four times as wide as the first block
_PARTS = {
    "sd15": (UNET, TEXT_ENCODER),
    "sd21": (UNET, TEXT_ENCODER),
    "sdxl": (UNET, TEXT_ENCODER, TEXT_ENCODER_2),
}


def parts_of(arch: str) -> tuple[str, ...]:
    """The models of an architecture that adapters go on.

    Raises:
        KeyError: no such architecture.
    """
    return _PARTS[arch]


@cache
def true_size(arch: str) -> Mapping[LayerKey, Shape]:
    """Every layer of the published model of an architecture; the table is shared and fixed.

    Raises:
        KeyError: no such architecture.
    """
    configs = {
        part: json.loads((_CONFIGS / arch / part / "config.json").read_text(encoding="utf-8"))
        for part in parts_of(arch)
    }
    return MappingProxyType(of_configs(configs))


def of_configs(configs: Mapping[str, Mapping[str, Any]]) -> dict[LayerKey, Shape]:
    """Every layer that an adapter fits, in model order.

    Args:
        configs: part -> its `config.json`; of the UNet as diffusers writes it
            (`UNet2DConditionModel`), of text encoders as transformers does (CLIP).

    Raises:
        KeyError: a configuration lacks a field.
    """
    found: dict[LayerKey, Shape] = {}
    for part, config in configs.items():
        named = _unet(config) if part == UNET else _clip(config, part == TEXT_ENCODER_2)
        found |= {LayerKey(part, path): shape for path, shape in named}
    return found


def _unet(config: Mapping[str, Any]) -> Iterator[Named]:
    widths: list[int] = list(config["block_out_channels"])
    first, last = widths[0], widths[-1]
    time = _TIME_WIDTHS * first
    units = int(config.get("layers_per_block", 2))
    depth = config.get("transformer_layers_per_block", 1)
    depths = [depth] * len(widths) if isinstance(depth, int) else list(depth)
    context = int(config["cross_attention_dim"])
    linear = bool(config.get("use_linear_projection", False))

    def attention(path: str, width: int, count: int) -> Iterator[Named]:
        return _transformer(path, width, count, context, linear)

    yield "conv_in", (first, int(config.get("in_channels", 4)), 3, 3)
    yield "time_embedding.linear_1", (time, first)
    yield "time_embedding.linear_2", (time, time)
    if config.get("addition_embed_type") == "text_time":
        told = int(config["projection_class_embeddings_input_dim"])
        yield "add_embedding.linear_1", (time, told)
        yield "add_embedding.linear_2", (time, time)
    inputs = first
    for level, kind in enumerate(config["down_block_types"]):
        block, width = f"down_blocks.{level}", widths[level]
        for unit in range(units):
            yield from _resnet(f"{block}.resnets.{unit}", inputs, width, time)
            if kind.startswith("CrossAttn"):
                yield from attention(f"{block}.attentions.{unit}", width, depths[level])
            inputs = width
        if level < len(widths) - 1:
            yield f"{block}.downsamplers.0.conv", (width, width, 3, 3)
    yield from _resnet("mid_block.resnets.0", last, last, time)
    yield from attention("mid_block.attentions.0", last, depths[-1])
    yield from _resnet("mid_block.resnets.1", last, last, time)
    upward, below = widths[::-1], last
    for level, kind in enumerate(config["up_block_types"]):
        block, width = f"up_blocks.{level}", upward[level]
        skipped_last = upward[min(level + 1, len(upward) - 1)]
        for unit in range(units + 1):
            skipped = skipped_last if unit == units else width
            yield from _resnet(f"{block}.resnets.{unit}", below + skipped, width, time)
            if kind.startswith("CrossAttn"):
                yield from attention(f"{block}.attentions.{unit}", width, depths[::-1][level])
            below = width
        if level < len(upward) - 1:
            yield f"{block}.upsamplers.0.conv", (width, width, 3, 3)
    yield "conv_out", (int(config.get("out_channels", 4)), first, 3, 3)


def _resnet(path: str, inputs: int, width: int, time: int) -> Iterator[Named]:
    yield f"{path}.conv1", (width, inputs, 3, 3)
    yield f"{path}.time_emb_proj", (width, time)
    yield f"{path}.conv2", (width, width, 3, 3)
    if inputs != width:
        yield f"{path}.conv_shortcut", (width, inputs, 1, 1)


def _transformer(path: str, width: int, count: int, context: int, linear: bool) -> Iterator[Named]:
    ends = (width, width) if linear else (width, width, 1, 1)
    yield f"{path}.proj_in", ends
    for index in range(count):
        block = f"{path}.transformer_blocks.{index}"
        for name, inputs in (("attn1", width), ("attn2", context)):
            yield f"{block}.{name}.to_q", (width, width)
            yield f"{block}.{name}.to_k", (width, inputs)
            yield f"{block}.{name}.to_v", (width, inputs)
            yield f"{block}.{name}.to_out.0", (width, width)
        yield f"{block}.ff.net.0.proj", (8 * width, width)  # GEGLU: twice the inner width
        yield f"{block}.ff.net.2", (width, 4 * width)
    yield f"{path}.proj_out", ends


def _clip(config: Mapping[str, Any], projected: bool) -> Iterator[Named]:
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    for index in range(int(config["num_hidden_layers"])):
        layer = f"text_model.encoder.layers.{index}"
        for leaf in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield f"{layer}.self_attn.{leaf}", (width, width)
        yield f"{layer}.mlp.fc1", (inner, width)
        yield f"{layer}.mlp.fc2", (width, inner)
    if projected:
        yield "text_projection", (int(config["projection_dim"]), width)
