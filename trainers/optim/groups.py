"""The optimizer's groups of parameters and their rates, and the limit on an update's norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from lora_diffusion.errors import InputError
from lora_diffusion.injection import AdapterHandle
from lora_diffusion.keys import TEXT_ENCODER_2, UNET
from lora_diffusion.targets import by_pattern, check_patterns
from lora_diffusion.variants import LoRA
from trainers.optim.optimizers import build, found_rate
from trainers.spec import OptimSpec

NOTHING_IS_TRAINED = (
    "Every layer has the learning rate 0, so nothing is trained. Raise optim.lr_unet, "
    "optim.lr_text or a factor in optim.lr_patterns."
)
_B, _MAGNITUDE = "up", "magnitude"


@dataclass(frozen=True)
class _Rate:
    """What the parameters of one group share."""

    part: str
    lr: float
    weight_decay: float


def make_optimizer(spec: OptimSpec, handle: AdapterHandle) -> Optimizer:
    """The optimizer of the settings, with one group for each learning rate.

    The rate of A is `own_rate` times the layer's factor from `lr_patterns`; that of B
    is `lora_plus_ratio` times as high (Hayou et al., "LoRA+", arXiv:2402.12354, section 4). DoRA's
    magnitude has the rate of A and no weight decay: towards 0 it would decay the base.

    Each group's `base_lr` is the rate that the schedule scales. Layers with a rate of 0 are left
    out and need no gradient.

    Raises:
        InputError: a pattern matches no layer, nothing is left to train, or the optimizer's
            library is missing.
    """
    check_patterns("optim.lr_patterns", spec.lr_patterns, handle.layers)
    groups: dict[_Rate, list[nn.Parameter]] = {}
    for key, name, parameter in handle.named_parameters():
        lr = own_rate(spec, key.part) * by_pattern(spec.lr_patterns, key, 1.0)
        if lr == 0:
            parameter.requires_grad_(False)
            continue
        if name == _B and spec.lora_plus_ratio is not None:
            lr *= spec.lora_plus_ratio
        decay = 0.0 if name == _MAGNITUDE else spec.weight_decay
        groups.setdefault(_Rate(key.part, lr, decay), []).append(parameter)
    if not groups:
        raise InputError(NOTHING_IS_TRAINED)
    # groups without a factor first: the rate of the first is the one that is shown
    ordered = sorted(groups.items(), key=lambda group: group[0].lr != own_rate(spec, group[0].part))
    return build(
        spec,
        [
            {
                "params": parameters,
                "lr": rate.lr,
                "base_lr": rate.lr,
                "weight_decay": rate.weight_decay,
                "part": rate.part,
            }
            for rate, parameters in ordered
        ],
    )


def own_rate(spec: OptimSpec, part: str) -> float:
    """The learning rate of a part's adapter, before factors; 0 trains none."""
    if part == UNET:
        return spec.lr_unet
    if part == TEXT_ENCODER_2 and spec.lr_text_2 is not None:
        return spec.lr_text_2
    return spec.lr_text


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Scale every group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def shown_lr(optimizer: Optimizer) -> float:
    """The first group's rate; for Prodigy that which it has found."""
    first: float = optimizer.param_groups[0]["lr"]
    return first * found_rate(optimizer)


@torch.no_grad()
def limit_norms(handle: AdapterHandle, max_norm: float) -> None:
    """Scale down each layer's update alpha / r B A whose Frobenius norm exceeds `max_norm`.

    A and B are both scaled by the root of max_norm / norm (`scale_weight_norms` of
    kohya-ss/sd-scripts, after Srebro & Shraibman, "Rank, Trace-Norm and Max-Norm", 2005). The norm
    is that of the r x r product: |B A|^2 = sum((B^T B) * (A A^T)).
    """
    for _, adapter in handle.adapters():
        assert isinstance(adapter, LoRA)  # the settings see to it
        down, up = adapter.down.flatten(1), adapter.up.flatten(1)  # [r, in...], [out, r]
        square = ((up.T @ up) * (down @ down.T)).sum().clamp_min(0)
        norm = square.sqrt() * adapter.scale
        factor = (max_norm / norm).clamp(max=1).sqrt()  # 1 where the norm is 0
        adapter.down.mul_(factor)
        adapter.up.mul_(factor)
