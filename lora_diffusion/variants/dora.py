"""DoRA: the low-rank update changes a weight's direction, and a magnitude its length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from lora_diffusion import algebra
from lora_diffusion.algebra import MagnitudeAxis
from lora_diffusion.factors import DoRAFactors
from lora_diffusion.keys import LayerKey
from lora_diffusion.variants.adapter import Init, empty_parameter, weight_of
from lora_diffusion.variants.lora import LoRA


class DoRA(LoRA):
    """W' = m * V / norm(V), V = W0 + alpha / r * B A (Liu et al., arXiv:2402.09353, eq. 5).

    m starts as norm(W0). The norm counts as a constant in the backward pass (section 4.3, eq. 11).
    The update is W' x - W0 x = W0 (g - 1) x + alpha / r * B A g x with g = m / norm(V), which is
    exactly 0 while B = 0 and m = norm(W0).

    The paper decomposes columns of W0, one m an input channel: the axis `in`, which ComfyUI,
    Forge and InvokeAI apply the same. The axis `out`, one m an output channel, is PEFT's and
    LyCORIS 3's; it is another model.

    Parameters (fp32): `down`, `up` as LoRA; `magnitude` (m) `[1, in, *1]` or `[out, 1, *1]`.
    """

    def __init__(
        self,
        base: nn.Module,
        key: LayerKey,
        rank: int,
        alpha: float,
        axis: MagnitudeAxis = "in",
    ) -> None:
        super().__init__(base, key, rank, alpha)
        self.axis: MagnitudeAxis = axis
        shape = algebra.magnitude_shape(self.weight_shape, axis)
        self.magnitude = empty_parameter(shape, base)
        self._start(weight_of(base))

    @classmethod
    def holding(cls, base: nn.Module, key: LayerKey, factors: Any) -> Self:
        adapter = cls(base, key, factors.rank, factors.alpha, factors.axis)
        adapter.set_factors(factors)
        return adapter

    def reset(self, init: Init, seed: int, weight: Tensor) -> None:
        super().reset(init, seed, weight)
        self._start(weight)

    @torch.no_grad()
    def _start(self, weight: Tensor) -> None:
        self.magnitude.copy_(algebra.channel_norms(weight, self.axis))

    def told(self, of: Callable[[Tensor], Tensor]) -> DoRAFactors:
        return DoRAFactors(of(self.down), of(self.up), self.alpha, of(self.magnitude), self.axis)

    def forward(self, x: Tensor, weight: Tensor, strength: float = 1.0) -> Tensor:
        x, keep = self._widened(x), self._kept()
        ratio = self._ratio(weight)  # [c] or [c, 1, 1], c = in or out
        if self.axis == "in":
            update = self._base_part(x * (ratio - 1), weight)
            update = update + self._low_rank(x * ratio, self.scale, keep)
        else:
            update = self._base_part(x, weight) * (ratio - 1)
            update = update + self._low_rank(x, self.scale, keep) * ratio
        if keep is not None:
            update = update * keep.module.to(update.device, update.dtype)
        return update if strength == 1 else update * strength

    def _base_part(self, x: Tensor, weight: Tensor) -> Tensor:
        """W0 x, computed in the base's dtype and widened."""
        return self._times(x.to(weight.dtype), weight).to(self.up.dtype)

    def _ratio(self, weight: Tensor) -> Tensor:
        """g = m / norm(V) in fp32, shaped to scale channels of activations."""
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            norms = algebra.updated_norms(weight, self.down, self.up, self.scale, self.axis)
        ratio = algebra.magnitude_ratio(self.magnitude, norms)
        return ratio.reshape(-1, *(1 for _ in self.down.shape[2:]))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, axis={self.axis}"
