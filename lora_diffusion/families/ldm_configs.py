"""Configurations of single-file checkpoints: the shipped ones with the widths of the file.

A checkpoint's architecture is known (`configs/ARCH`); widths, and how deep SDXL's transformers
are, are read from the shapes of its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.detect import (
    SD1_TEXT_PREFIX,
    SD2_TEXT_PREFIX,
    SDXL_TEXT_2_PREFIX,
    SDXL_TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    read_json,
)
from lora_diffusion.families.layout import AGAIN, SCHEDULER_CONFIG
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2

CLIP_HEAD = 64  # width of one attention head in every CLIP text encoder
UNET_HEAD = 64  # and in the UNets of SD2.x and SDXL; SD1.x has eight heads at any width
SD2_V_SAMPLE_SIZE = 96  # SD2.x with v-prediction was trained at 768 px
# OpenCLIP-H has 24 layers, of which SD2.x reads 23; checkpoints hold either number.
_OPEN_CLIP_H_LAYERS = (23, 24)
_PER_LEVEL = 3  # input blocks from one resolution to the next: two layers and the step down
_VAE_LEVELS = range(4)

# Architecture -> text-encoder part -> prefix of its tensors, and whether it is OpenCLIP's.
TEXTS: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    "sd15": {TEXT_ENCODER: (SD1_TEXT_PREFIX, False)},
    "sd21": {TEXT_ENCODER: (SD2_TEXT_PREFIX, True)},
    "sdxl": {
        TEXT_ENCODER: (SDXL_TEXT_PREFIX, False),
        TEXT_ENCODER_2: (SDXL_TEXT_2_PREFIX, True),
    },
}

Shapes = Mapping[str, tuple[int, ...]]


def folder(arch: str) -> Path:
    """Where the configurations of an architecture lie, in diffusers layout."""
    return Path(__file__).resolve().parent / "configs" / arch


def shipped(arch: str, part: str) -> dict[str, Any]:
    """The configuration of a part at its true size."""
    return read_json(folder(arch) / part / "config.json")


def scheduler_config(arch: str) -> dict[str, Any]:
    """The noise schedule."""
    return read_json(folder(arch) / SCHEDULER_CONFIG)


def unet_config(shapes: Shapes, arch: str, where: str) -> dict[str, Any]:
    """The architecture's UNet configuration with the widths of this file.

    Raises:
        InputError: a tensor that tells a width is missing.
    """
    config = shipped(arch, "unet")
    levels = range(len(config["block_out_channels"]))
    blocks = [f"input_blocks.{1 + _PER_LEVEL * i}.0.out_layers.3.weight" for i in levels]
    widths = [_size(shapes, UNET_PREFIX + name, 0, where) for name in blocks]
    first = next(i for i, kind in enumerate(config["down_block_types"]) if "CrossAttn" in kind)
    context = f"input_blocks.{1 + _PER_LEVEL * first}.1.transformer_blocks.0.attn2.to_k.weight"
    config |= {
        "block_out_channels": widths,
        "cross_attention_dim": _size(shapes, UNET_PREFIX + context, 1, where),
    }
    if arch != "sd15":
        config["attention_head_dim"] = [max(1, width // UNET_HEAD) for width in widths]
    if arch == "sdxl":
        config["transformer_layers_per_block"] = [
            max(1, _depth(shapes, f"{UNET_PREFIX}input_blocks.{1 + _PER_LEVEL * i}.1."))
            for i in levels
        ]
        told = _size(shapes, UNET_PREFIX + "label_emb.0.0.weight", 1, where)
        config["projection_class_embeddings_input_dim"] = told
    return config


def vae_config(shapes: Shapes, arch: str, where: str) -> dict[str, Any]:
    """The architecture's VAE configuration with the widths of this file; errors as above."""
    blocks = [f"encoder.down.{i}.block.0.conv1.weight" for i in _VAE_LEVELS]
    return shipped(arch, "vae") | {
        "block_out_channels": [_size(shapes, VAE_PREFIX + name, 0, where) for name in blocks],
    }


def clip_config(shapes: Shapes, prefix: str, arch: str, where: str) -> dict[str, Any]:
    """CLIP-L's configuration with the widths and depth of this file; errors as above.

    prefix: of the encoder's tensors. Some early files lack the `text_model` level after it.
    """
    inner = prefix + "text_model."
    prefix = inner if any(name.startswith(inner) for name in shapes) else prefix
    tokens = prefix + "embeddings.token_embedding.weight"
    fc1 = prefix + "encoder.layers.0.mlp.fc1.weight"
    vocabulary, width = (_size(shapes, tokens, axis, where) for axis in (0, 1))
    return shipped(arch, "text_encoder") | {
        **_sizes(vocabulary, width, _size(shapes, fc1, 0, where)),
        "pad_token_id": vocabulary - 1,
        "projection_dim": width,
        "num_hidden_layers": _count(shapes, prefix + "encoder.layers."),
    }


def open_clip_config(
    shapes: Shapes, prefix: str, arch: str, part: str, where: str
) -> dict[str, Any]:
    """The configuration of OpenCLIP's encoder in this file; errors as above.

    Of SD2.x's, the last layer is left out, as it was in training.
    """
    tokens = prefix + "token_embedding.weight"
    fc1 = prefix + "transformer.resblocks.0.mlp.c_fc.weight"
    vocabulary, width = (_size(shapes, tokens, axis, where) for axis in (0, 1))
    layers = _count(shapes, prefix + "transformer.resblocks.")
    config = shipped(arch, part) | {
        **_sizes(vocabulary, width, _size(shapes, fc1, 0, where)),
        "projection_dim": width,
        "num_hidden_layers": layers,
    }
    if arch == "sd21":
        used = min(_OPEN_CLIP_H_LAYERS)
        config["num_hidden_layers"] = used if layers in _OPEN_CLIP_H_LAYERS else max(1, layers - 1)
    else:
        config["projection_dim"] = _size(shapes, prefix + "text_projection", 1, where)
    return config


def _sizes(vocabulary: int, width: int, inner: int) -> dict[str, int]:
    return {
        "vocab_size": vocabulary,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "hidden_size": width,
        "num_attention_heads": max(1, width // CLIP_HEAD),
        "intermediate_size": inner,
    }


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered things stand after `prefix`."""
    return len({n.removeprefix(prefix).split(".", 1)[0] for n in shapes if n.startswith(prefix)})


def _depth(shapes: Shapes, prefix: str) -> int:
    return _count(shapes, prefix + "transformer_blocks.")


def _size(shapes: Shapes, name: str, axis: int, where: str) -> int:
    shape = shapes.get(name, ())
    if len(shape) <= axis:
        raise InputError(f"{where}: lacks {printable(name)}. {AGAIN}")
    return shape[axis]
