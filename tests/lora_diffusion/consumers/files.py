"""Adapter files written by hand: tensor by tensor, by any consumer's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lora_diffusion.base_layers import of_configs
from lora_diffusion.consumers import Target
from lora_diffusion.keys import LayerKey
from tests.lora_diffusion.families.sd15_models import Models

Shapes = Mapping[LayerKey, tuple[int, ...]]
Name = Callable[[LayerKey], str]


def target_of(models: Models, arch: str) -> Target:
    """The base that tiny models are."""
    configs = {
        part: dict(model.config) if part == "unet" else model.config.to_dict()
        for part, model in models.parts().items()
        if part != "vae"
    }
    return Target(arch, "tiny", of_configs(configs))


def flat(key: LayerKey) -> str:
    return key.path.replace(".", "_")


def sd_name(key: LayerKey) -> str:
    return {"unet": "lora_unet_", "text_encoder": "lora_te_"}[key.part] + flat(key)


def sdxl_name(key: LayerKey) -> str:
    """With diffusers' names of UNet layers, which sd-scripts does not write."""
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    return prefixes[key.part] + flat(key)


def factors(
    shape: tuple[int, ...], rank: int, seed: int, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """down and up of a layer."""
    source = torch.Generator().manual_seed(seed)
    ones = (1,) * (len(shape) - 2)
    down = torch.randn(rank, *shape[1:], generator=source) * scale
    return down, torch.randn(shape[0], rank, *ones, generator=source) * scale


def kohya(
    keys: Iterable[LayerKey],
    shapes: Shapes,
    name: Name,
    *,
    rank: Callable[[int], int] = lambda _: 4,
    alpha: Callable[[int], float | None] = lambda _: 2.0,
) -> dict[str, Tensor]:
    """A LoRA; rank and alpha by the number of the layer, no alpha where that gives None."""
    tensors: dict[str, Tensor] = {}
    for index, key in enumerate(keys):
        down, up = factors(shapes[key], rank(index), index)
        tensors[f"{name(key)}.lora_down.weight"] = down
        tensors[f"{name(key)}.lora_up.weight"] = up
        told = alpha(index)
        if told is not None:
            tensors[f"{name(key)}.alpha"] = torch.tensor(told)
    return tensors


def dotted(keys: Iterable[LayerKey], shapes: Shapes, rank: int = 4) -> dict[str, Tensor]:
    """A LoRA in diffusers' present form, without alpha."""
    tensors: dict[str, Tensor] = {}
    for index, key in enumerate(keys):
        down, up = factors(shapes[key], rank, index)
        tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = down, up
    return tensors


def saved(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path
