"""A difference of whole weights, read from files (LyCORIS' `diff`), not trained here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from lora_diffusion.factors import FullFactors
from lora_diffusion.keys import LayerKey
from lora_diffusion.shapes import full_rank
from lora_diffusion.variants.adapter import Adapter, Init, empty_parameter


class Full(Adapter):
    """h = W0 x + D x.

    Parameter (fp32): `diff` (D) `[out, in, *kernel]`.
    """

    def __init__(self, base: nn.Module, key: LayerKey) -> None:
        super().__init__(base, key, alpha=1.0)
        self.alpha = float(self.rank)
        self.diff = empty_parameter(self.weight_shape, base)

    @classmethod
    def holding(cls, base: nn.Module, key: LayerKey, factors: Any) -> Self:
        adapter = cls(base, key)
        adapter.set_factors(factors)
        return adapter

    @property
    def rank(self) -> int:
        return full_rank(self.weight_shape)

    @torch.no_grad()
    def reset(self, init: Init, seed: int, weight: Tensor) -> None:
        self.diff.zero_()

    def told(self, of: Callable[[Tensor], Tensor]) -> FullFactors:
        return FullFactors(of(self.diff))

    def forward(self, x: Tensor, weight: Tensor, strength: float = 1.0) -> Tensor:
        return self._times(self._widened(x), self.diff * strength)
