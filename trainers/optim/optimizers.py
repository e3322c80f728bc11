"""Optimizers by name, each from a well-kept library, and the state that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from lora_diffusion.errors import InputError
from trainers.spec import OptimSpec

# The names that kohya's trainers write into a file's metadata.
TOLD_NAMES: Mapping[str, str] = {
    "adamw": "AdamW",
    "adamw8bit": "AdamW8bit",
    "adafactor": "AdaFactor",
    "prodigy": "Prodigy",
    "schedulefree": "AdamWScheduleFree",
    "lion": "Lion",
}
# What optimizers keep in their groups and move, beside each parameter's own state.
_MOVED_IN_GROUPS = ("d", "d_max", "d_numerator", "k", "weight_sum", "lr_max")


def build(spec: OptimSpec, groups: list[dict[str, Any]]) -> Optimizer:
    """The optimizer `spec.kind` over `groups`, which have rates and weight decay of their own.

    - adamw: Loshchilov & Hutter, arXiv:1711.05101, torch's fused kernel.
    - adamw8bit: Dettmers et al., "8-bit Optimizers via Block-wise Quantization"
      (arXiv:2110.02861); tensors below 4,096 numbers keep 32 bits.
    - adafactor: Shazeer & Stern, arXiv:1804.04235, with the rate as given (no relative steps).
    - prodigy: Mishchenko & Defazio, arXiv:2306.06101, with bias correction, and without the
      warm-up's rate in its estimate (its authors' advice for diffusion models).
    - schedulefree: Defazio et al., "The Road Less Scheduled" (arXiv:2405.15682).
    - lion: Chen et al., arXiv:2302.06675.

    Raises:
        InputError: bitsandbytes is wanted, and not installed or not usable.
    """
    betas = (spec.beta1, spec.beta2)
    made: Any
    if spec.kind == "adamw":
        made = torch.optim.AdamW(groups, betas=betas, eps=spec.epsilon, fused=True)  # type: ignore[arg-type]
    elif spec.kind == "adamw8bit":
        made = _adamw8bit()(groups, betas=betas, eps=spec.epsilon)
    elif spec.kind == "adafactor":
        from transformers.optimization import Adafactor

        made = Adafactor(groups, lr=spec.lr_unet, scale_parameter=False, relative_step=False)
    elif spec.kind == "prodigy":
        from prodigyopt import Prodigy

        made = Prodigy(
            groups,
            betas=betas,
            eps=spec.epsilon,
            d_coef=spec.d_coef,
            use_bias_correction=True,
            safeguard_warmup=True,
        )
    elif spec.kind == "schedulefree":
        from schedulefree import AdamWScheduleFree

        made = AdamWScheduleFree(groups, betas=betas, eps=spec.epsilon)
        made.train()
    else:
        from lion_pytorch import Lion

        made = Lion(groups, betas=betas)
    optimizer: Optimizer = made
    return optimizer


def check(spec: OptimSpec) -> None:
    """Raise `InputError` where the optimizer's library is missing."""
    if spec.kind == "adamw8bit":
        _adamw8bit()


def found_rate(optimizer: Optimizer) -> float:
    """What the first group's rate is multiplied with: Prodigy's estimate d, else 1."""
    return float(optimizer.param_groups[0].get("d", 1.0))


def group_state(optimizer: Optimizer) -> list[dict[str, float]]:
    """Numbers that the optimizer keeps in its groups and moves, one dict a group; else nothing."""
    state = [
        {name: group[name] for name in _MOVED_IN_GROUPS if name in group}
        for group in optimizer.param_groups
    ]
    return state if any(state) else []


def set_group_state(optimizer: Optimizer, state: Sequence[Mapping[str, float]]) -> None:
    """Put back what `group_state` gave, for an optimizer of the same settings."""
    for group, values in zip(optimizer.param_groups, state, strict=bool(state)):
        group.update(values)


def _adamw8bit() -> Any:
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"optim.kind = adamw8bit can't be used ({reason}). Install bitsandbytes with "
            "pip install 'lora-diffusion[8bit]', or use optim.kind adamw or adafactor."
        ) from None
    return AdamW8bit
