"""Optimizer and learning-rate schedule."""

from __future__ import annotations

import math

import torch

from lora_diffusion.inject import AdapterHandle
from lora_diffusion.keys import UNET
from trainers.spec import OptimSpec


def make_optimizer(spec: OptimSpec, handle: AdapterHandle) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101), one group for the UNet, one for the rest.

    Each group's `base_lr` is the rate that the schedule scales. Adapters with a rate of 0 are
    left out.
    """
    groups = []
    parts = list(dict.fromkeys(key.part for key in handle.layers))
    for part in parts:
        lr = spec.lr_unet if part == UNET else spec.lr_text
        if lr > 0:
            groups.append(
                {"params": handle.parameters(part), "lr": lr, "base_lr": lr, "part": part}
            )
    return torch.optim.AdamW(
        groups,
        betas=(spec.beta1, spec.beta2),
        eps=spec.epsilon,
        weight_decay=spec.weight_decay,
        fused=True,
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
