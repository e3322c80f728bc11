"""Randomness as pure functions of what it is for; nothing here reads or moves global state.

A draw is named by its labels, for example `("noise", seed, step, sample)`. The same labels give
the same bits in any order, in any process, before or after a resume, on every device (drawn on
the CPU, then moved).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive_seed(*labels: int | str) -> int:
    """A 63-bit seed from labels (blake2b of their text)."""
    text = "\x1f".join(f"{type(label).__name__}:{label}" for label in labels)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*labels: int | str) -> torch.Generator:
    """A CPU generator seeded by labels."""
    return torch.Generator("cpu").manual_seed(derive_seed(*labels))


def normal(shape: tuple[int, ...], *labels: int | str) -> Tensor:
    """Standard normal fp32 values of `shape`, on the CPU."""
    return torch.randn(shape, generator=generator(*labels))


def uniform(*labels: int | str) -> float:
    """One number in [0, 1)."""
    return float(torch.rand((), generator=generator(*labels), dtype=torch.float64))
