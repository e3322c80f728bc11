"""The kohya dialect, as sd-scripts writes it and A1111, Forge, ComfyUI and InvokeAI read it.

Names and checks are in `kohya_layout`; here are the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lora_diffusion.adapter import AdapterFile, Factors
from lora_diffusion.errors import InputError
from lora_diffusion.formats.header import refuse
from lora_diffusion.formats.kohya_layout import (
    ALPHA,
    DOWN,
    UP,
    Shape,
    checked_alpha,
    infer_arch,
    lay_out,
    missing_alpha_notes,
    stem_of,
)
from lora_diffusion.formats.metadata import stated_arch
from lora_diffusion.keys import LayerKey


@dataclass(frozen=True, eq=False)
class Decoded:
    """An adapter and what had to be assumed to read it.

    Attributes:
        adapter: what the file means.
        notes: one sentence for each assumption; empty for a complete file.
    """

    adapter: AdapterFile
    notes: tuple[str, ...] = ()


def encode(adapter: AdapterFile, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a kohya file, in `dtype` (fp32, bf16, fp16), alpha included, on the CPU.

    Raises:
        InputError: the dialect has no name for a layer, or a number is not finite, or does not
            fit into `dtype`.
    """
    tensors: dict[str, Tensor] = {}
    for key, factors in adapter.layers.items():
        stem = stem_of(key)
        if stem is None:
            raise InputError(f"The kohya format for SD 1.x and 2.x has no name for layer '{key}'.")
        tensors[f"{stem}.{DOWN}"] = _narrowed(key, factors.down, dtype)
        tensors[f"{stem}.{UP}"] = _narrowed(key, factors.up, dtype)
        alpha = _narrowed(key, torch.tensor(factors.alpha, dtype=torch.float64), dtype)
        if not alpha > 0:
            raise InputError(
                f"The alpha of layer '{key}' is {factors.alpha:g}, which {dtype} cannot hold as a "
                "number above 0. Set alpha above 0, or save in fp32."
            )
        tensors[f"{stem}.{ALPHA}"] = alpha
    return tensors


def decode(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    table: Mapping[str, LayerKey],
    *,
    base_shapes: Mapping[LayerKey, Shape] | None = None,
    source: str | Path = "adapter",
) -> Decoded:
    """What the tensors of a kohya file mean; factors keep their dtype and share their memory.

    Args:
        tensors: every tensor of the file.
        metadata: its header strings; they settle the architecture where shapes don't.
        table: stem -> layer, usually `kohya_layout.stem_table()`.
        base_shapes: weight shapes of the base. Layers that don't fit it are refused; 1 x 1
            convolutions and linear layers are brought to the form the base has.
        source: file name for messages.

    Raises:
        AdapterFileError: a tensor is left over or missing, shapes disagree, alpha is absurd, or
            factors are not floating-point.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    layout = lay_out(source, shapes, table, base_shapes)
    layers: dict[LayerKey, Factors] = {}
    for layer in layout:
        down, up = tensors[layer.down], tensors[layer.up]
        if not (down.is_floating_point() and up.is_floating_point()):
            refuse(source, f"the factors of '{layer.stem}' are not floating-point numbers")
        stated = tensors[layer.alpha].item() if layer.has_alpha else layer.rank
        alpha = checked_alpha(source, layer.stem, float(stated), layer.rank)
        kernel = (layer.base_shape or layer.weight_shape)[2:]
        layers[layer.key] = Factors(
            down=down.reshape(*down.shape[:2], *kernel),
            up=up.reshape(*up.shape[:2], *(1 for _ in kernel)),
            alpha=alpha,
        )
    arch, assumed = infer_arch(layout, stated_arch(metadata))
    notes = (*missing_alpha_notes(layout), *([assumed] if assumed else []))
    return Decoded(AdapterFile(arch, layers, dict(metadata)), notes)


def _narrowed(key: LayerKey, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`, on the CPU, in memory of its own."""
    tensor = tensor.detach().cpu()
    if not torch.isfinite(tensor).all():
        raise InputError(
            f"Layer '{key}' holds NaN or infinite numbers: the training diverged. "
            "Lower the learning rate, or go back to an earlier checkpoint."
        )
    narrow = tensor.to(dtype, copy=True).contiguous()
    if not torch.isfinite(narrow).all():
        raise InputError(
            f"Layer '{key}' holds numbers that {dtype} cannot hold. Save in bf16 or fp32."
        )
    return narrow
