"""How the learning rate runs: linear warm-up, then a schedule; pure functions of the step."""

from __future__ import annotations

import math

from trainers.spec import OptimSpec


def warmup_steps(spec: OptimSpec, total: int) -> int:
    """How many of `total` steps the learning rate rises in."""
    if spec.lr_warmup_steps is not None:
        return spec.lr_warmup_steps
    return round(spec.lr_warmup_ratio * total)


def lr_factor(spec: OptimSpec, step: int, total: int) -> float:
    """What the base rate is multiplied with at `step` (from 0) of `total`."""
    warmup = warmup_steps(spec, total)
    if step < warmup:
        return (step + 1) / warmup
    if spec.lr_schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)  # 0 .. <1
    return spec.lr_end_ratio + (1 - spec.lr_end_ratio) * _fall(spec, progress)


def _fall(spec: OptimSpec, progress: float) -> float:
    """From 1 towards 0 as `progress` goes from 0 to 1.

    cosine: Loshchilov & Hutter, "SGDR" (arXiv:1608.03983), eq. 5, without restarts;
    cosine_restarts: the same with cycles of equal length; rex: Chen et al., "REX: Revisiting
    Budgeted Training with an Improved Schedule" (arXiv:2107.04197), (1 - z) / (1/2 + (1 - z) / 2).
    """
    left = 1.0 - progress
    if spec.lr_schedule == "linear":
        return left
    if spec.lr_schedule == "polynomial":
        assert spec.lr_power is not None
        return float(left**spec.lr_power)
    if spec.lr_schedule == "rex":
        return left / (0.5 + 0.5 * left)
    if spec.lr_schedule == "cosine_restarts":
        assert spec.lr_cycles is not None
        progress = (progress * spec.lr_cycles) % 1.0
    return 0.5 * (1.0 + math.cos(math.pi * progress))
