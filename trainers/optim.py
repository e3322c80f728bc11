"""Optimizer, its groups of parameters, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from lora_diffusion.errors import InputError, printable
from lora_diffusion.injection import AdapterHandle
from lora_diffusion.keys import PARTS, UNET, LayerKey
from lora_diffusion.targets import by_pattern, matches
from trainers.spec import OptimSpec

_B, _MAGNITUDE = "up", "magnitude"


@dataclass(frozen=True)
class _Rate:
    """What the parameters of one group share."""

    part: str
    lr: float
    weight_decay: float


def make_optimizer(spec: OptimSpec, handle: AdapterHandle) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) with one group for each learning rate.

    The rate of A is `lr_unet` or `lr_text` times the layer's factor from `lr_patterns`; that of B
    is `lora_plus_ratio` times as high (Hayou et al., "LoRA+", arXiv:2402.12354, section 4). DoRA's
    magnitude has the rate of A and no weight decay: towards 0 it would decay the base.

    Each group's `base_lr` is the rate that the schedule scales. Layers with a rate of 0 are left
    out and need no gradient.

    Raises:
        InputError: a pattern matches no layer, or nothing is left to train.
    """
    _check_patterns(spec, handle)
    own_rate = {part: spec.lr_unet if part == UNET else spec.lr_text for part in PARTS}
    groups: dict[_Rate, list[nn.Parameter]] = {}
    for key, name, parameter in _named_parameters(handle):
        lr = own_rate[key.part] * by_pattern(spec.lr_patterns, key, 1.0)
        if lr == 0:
            parameter.requires_grad_(False)
            continue
        if name == _B and spec.lora_plus_ratio is not None:
            lr *= spec.lora_plus_ratio
        decay = 0.0 if name == _MAGNITUDE else spec.weight_decay
        groups.setdefault(_Rate(key.part, lr, decay), []).append(parameter)
    if not groups:
        raise InputError(
            "Every layer has the learning rate 0, so nothing is trained. Raise optim.lr_unet, "
            "optim.lr_text or a factor in optim.lr_patterns."
        )
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": rate.lr,
                "base_lr": rate.lr,
                "weight_decay": rate.weight_decay,
                "part": rate.part,
            }
            # groups without a factor first: the rate of the first is the one that is shown
            for rate, parameters in sorted(
                groups.items(), key=lambda group: group[0].lr != own_rate[group[0].part]
            )
        ],
        betas=(spec.beta1, spec.beta2),
        eps=spec.epsilon,
        fused=True,
    )


def _named_parameters(handle: AdapterHandle) -> Iterator[tuple[LayerKey, str, nn.Parameter]]:
    for key, adapter in handle.adapters():
        for name, parameter in adapter.named_parameters():
            yield key, name, parameter


def _check_patterns(spec: OptimSpec, handle: AdapterHandle) -> None:
    for pattern in spec.lr_patterns:
        if not any(matches(pattern, key) for key in handle.layers):
            raise InputError(
                f"optim.lr_patterns: '{printable(pattern)}' matches no adapted layer. Patterns "
                "look like '*.attn2.*' or 'text_encoder.*'."
            )


def lr_factor(spec: OptimSpec, step: int, total: int) -> float:
    """What the base rate is multiplied with at `step` (from 0) of `total`; linear warm-up first."""
    warmup = round(spec.lr_warmup_ratio * total)
    if step < warmup:
        return (step + 1) / warmup
    if spec.lr_schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)  # 0 .. <1
    if spec.lr_schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Scale every group's rate; returns the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    first: float = optimizer.param_groups[0]["lr"]
    return first
