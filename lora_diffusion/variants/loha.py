"""LoHa: the update is the entry-by-entry product of two low-rank matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from lora_diffusion import algebra
from lora_diffusion.factors import LoHaFactors
from lora_diffusion.keys import LayerKey
from lora_diffusion.randomness import generator
from lora_diffusion.variants.adapter import Adapter, Init, empty_parameter

# LyCORIS' standard deviations (lycoris/modules/loha.py), under which a step of Adam moves the
# update as far as people's learning rates for LoHa expect.
_A_STD, _B_STD = 0.1, 1.0


class LoHa(Adapter):
    """h = W0 x + alpha / r * ((W1a W1b) * (W2a W2b)) x, * being Hadamard's product.

    Source: Hyeon-Woo et al., "FedPara", arXiv:2108.06098, section 2.2, proposition 1; for
    diffusion models Yeh et al., "LyCORIS", arXiv:2309.14859, section 3. The update's rank reaches
    r squared with twice the parameters of LoRA at r.

    Parameters (fp32): `w1_a`, `w2_a` `[out, r]`; `w1_b`, `w2_b` `[r, in, *kernel]`. W2a starts at
    zero. There is no value between the factors for rank or neuron dropout to drop.
    """

    def __init__(self, base: nn.Module, key: LayerKey, rank: int, alpha: float) -> None:
        super().__init__(base, key, alpha)
        outputs, *rest = self.weight_shape
        self.w1_a = empty_parameter((outputs, rank), base)
        self.w1_b = empty_parameter((rank, *rest), base)
        self.w2_a = empty_parameter((outputs, rank), base)
        self.w2_b = empty_parameter((rank, *rest), base)

    @classmethod
    def holding(cls, base: nn.Module, key: LayerKey, factors: Any) -> Self:
        adapter = cls(base, key, factors.rank, factors.alpha)
        adapter.set_factors(factors)
        return adapter

    @property
    def rank(self) -> int:
        return self.w1_b.shape[0]

    @torch.no_grad()
    def reset(self, init: Init, seed: int, weight: Tensor) -> None:
        """Draw all but W2a, which becomes zero; LyCORIS' start, the same for every `init`."""
        source = generator("init", seed, str(self.key))
        for parameter, std in ((self.w1_a, _A_STD), (self.w1_b, _B_STD), (self.w2_b, _B_STD)):
            parameter.copy_(torch.empty(parameter.shape).normal_(0, std, generator=source))
        self.w2_a.zero_()

    def told(self, of: Callable[[Tensor], Tensor]) -> LoHaFactors:
        return LoHaFactors(of(self.w1_a), of(self.w1_b), of(self.w2_a), of(self.w2_b), self.alpha)

    def forward(self, x: Tensor, weight: Tensor, strength: float = 1.0) -> Tensor:
        keep = self._kept()
        update = _hadamard(self.w1_a, self.w1_b, self.w2_a, self.w2_b)
        factor = self.scale * strength * (1.0 if keep is None else keep.module.item())
        return self._times(self._widened(x), update * factor)


class _Hadamard(torch.autograd.Function):
    """(W1a W1b) * (W2a W2b), `[out, in, *kernel]`, in fp32.

    Keeps the four factors for the backward pass and multiplies them again there, where autograd
    would keep two matrices of the weight's size.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor) -> Tensor:
        ctx.save_for_backward(w1_a, w1_b, w2_a, w2_b)
        with torch.autocast(w1_a.device.type, enabled=False):
            return algebra.low_rank_product(w1_b, w1_a) * algebra.low_rank_product(w2_b, w2_a)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        w1_a, w1_b, w2_a, w2_b = ctx.saved_tensors
        with torch.autocast(w1_a.device.type, enabled=False):
            on_first = (grad * algebra.low_rank_product(w2_b, w2_a)).flatten(1)  # [out, in*k]
            on_second = (grad * algebra.low_rank_product(w1_b, w1_a)).flatten(1)
            return (
                on_first @ w1_b.flatten(1).T,
                (w1_a.T @ on_first).reshape(w1_b.shape),
                on_second @ w2_b.flatten(1).T,
                (w2_a.T @ on_second).reshape(w2_b.shape),
            )


_hadamard: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = _Hadamard.apply
