"""Adapters of random numbers for a model of true size, without a model: to try other tools with."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from lora_diffusion import base_layers, targets
from lora_diffusion.adapter import AdapterFile
from lora_diffusion.algebra import magnitude_shape
from lora_diffusion.errors import InputError
from lora_diffusion.factors import DoRAFactors, Factors, LoHaFactors, LoKrFactors, LoRAFactors
from lora_diffusion.injection import AdapterConfig
from lora_diffusion.keys import UNET, LayerKey
from lora_diffusion.randomness import generator
from lora_diffusion.shapes import Shape, lokr_shapes

DELTA_RMS = 1e-3  # of an update's numbers: far inside every number format, and small beside weights
WEIGHT_RMS = 0.02  # about that of Stable Diffusion's weights, on which DoRA's norms depend


def probe(arch: str, config: AdapterConfig) -> AdapterFile:
    """Random factors for every layer that `config` names, a pure function of its seed.

    Args:
        arch: `sd15`, `sd21`, `sdxl`.
        config: as for `inject`; `init` and `dropout` play no part.

    Returns:
        Factors in fp32, whose updates have a root mean square of about `DELTA_RMS`.

    Raises:
        InputError: no layer is named, or a pattern matches none.
        KeyError: no such `arch`.
    """
    shapes = base_layers.true_size(arch)
    layers = {
        key: _random(key, shapes[key], config)
        for part in base_layers.parts_of(arch)
        for key in targets.select(
            config.targets if part == UNET else config.text_targets, part, shapes
        )
    }
    if not layers:
        raise InputError("No layer is adapted: targets and text targets are both 'none'.")
    return AdapterFile(arch, layers)


def _random(key: LayerKey, weight_shape: Shape, config: AdapterConfig) -> Factors:
    """One layer's factors. Products of normal numbers, so that the update's size is known."""
    rank, alpha = config.size_for(key, weight_shape)
    source = generator("probe", config.seed, str(key))
    outputs, *rest = weight_shape
    if config.kind == "loha":
        a, b = (outputs, rank), (rank, *rest)
        w1_a, w1_b, w2_a, w2_b = _drawn([a, b, a, b], alpha, source)
        return LoHaFactors(w1_a, w1_b, w2_a, w2_b, alpha)
    if config.kind == "lokr":
        named = lokr_shapes(weight_shape, rank, config.lokr_factor)
        is_factored = "w2" not in named
        rms = alpha / math.sqrt(rank) if is_factored else 1.0
        w1, *w2 = _drawn(list(named.values()), rms, source)
        made = LoKrFactors((w1,), tuple(w2), alpha)
        return made if is_factored else replace(made, alpha=float(made.rank))
    if config.kind == "rslora":
        alpha *= math.sqrt(rank)
    ones = (1,) * (len(rest) - 1)
    down, up = _drawn([(rank, *rest), (outputs, rank, *ones)], alpha / math.sqrt(rank), source)
    if config.kind != "dora":
        return LoRAFactors(down, up, alpha)
    shape = magnitude_shape(weight_shape, config.dora_axis)
    norm = WEIGHT_RMS * math.sqrt(math.prod(weight_shape) / math.prod(shape))
    magnitude = norm * (1 + 0.1 * torch.randn(shape, generator=source))
    return DoRAFactors(down, up, alpha, magnitude, config.dora_axis)


def _drawn(shapes: list[Shape], rms: float, source: torch.Generator) -> list[Tensor]:
    """Normal tensors, scaled alike so that an update of root mean square `rms` gets `DELTA_RMS`."""
    size = (DELTA_RMS / rms) ** (1 / len(shapes))
    return [torch.randn(shape, generator=source) * size for shape in shapes]
