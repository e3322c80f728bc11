"""LoKr: the update is Kronecker's product of a small matrix and a low-rank one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_diffusion.factors import LoKrFactors
from lora_diffusion.keys import LayerKey
from lora_diffusion.randomness import generator
from lora_diffusion.shapes import Shape
from lora_diffusion.variants.adapter import Adapter, Init, empty_parameter


class LoKr(Adapter):
    """h = W0 x + alpha / r * (W1 (x) W2) x, (x) being Kronecker's product, W2 = W2a W2b.

    Source: Edalati et al., "KronA", arXiv:2212.10650, section 3.1; for diffusion models Yeh et
    al., "LyCORIS", arXiv:2309.14859, section 3. The product is never formed: with x as a matrix X
    `[in / n, n]` it is W1 X W2^T (KronA, section 3.2).

    Parameters (fp32): `w1` `[out / k, in / n]`; `w2` `[k, n, *kernel]`, or `w2_a` `[k, r]` and
    `w2_b` `[r, n, *kernel]`; in files of others also `w1_a`, `w1_b`. W2, or W2b, starts at zero.
    Where neither is factored there is no r, and the scale is 1.
    """

    def __init__(
        self, base: nn.Module, key: LayerKey, shapes: Mapping[str, Shape], alpha: float
    ) -> None:
        super().__init__(base, key, alpha)
        for name, shape in shapes.items():
            self.register_parameter(name, empty_parameter(shape, base))
        if "w1" in shapes and "w2" in shapes:
            self.alpha = float(self.rank)

    @classmethod
    def holding(cls, base: nn.Module, key: LayerKey, factors: Any) -> Self:
        shapes = {name: tuple(tensor.shape) for name, tensor in factors.tensors().items()}
        adapter = cls(base, key, shapes, factors.alpha)
        adapter.set_factors(factors)
        return adapter

    @property
    def rank(self) -> int:
        return self.told(_itself).rank

    @torch.no_grad()
    def reset(self, init: Init, seed: int, weight: Tensor) -> None:
        """Draw all but W2's last factor, which becomes zero, as LyCORIS does.

        `kaiming` and `gaussian` are LoRA's, for each tensor.
        """
        source = generator("init", seed, str(self.key))
        for name, parameter in self.named_parameters():
            if name in ("w2", "w2_b"):
                parameter.zero_()
                continue
            drawn = torch.empty(parameter.shape)
            if init == "kaiming":
                bound = 1 / math.sqrt(parameter[0].numel())
                drawn.uniform_(-bound, bound, generator=source)
            else:
                drawn.normal_(0, 1 / self.rank, generator=source)
            parameter.copy_(drawn)

    def told(self, of: Callable[[Tensor], Tensor]) -> LoKrFactors:
        named = {name: of(parameter) for name, parameter in self.named_parameters()}
        return LoKrFactors(
            w1=tuple(named[name] for name in ("w1", "w1_a", "w1_b") if name in named),
            w2=tuple(named[name] for name in ("w2", "w2_a", "w2_b") if name in named),
            alpha=self.alpha,
        )

    def forward(self, x: Tensor, weight: Tensor, strength: float = 1.0) -> Tensor:
        keep = self._kept()
        factor = self.scale * strength * (1.0 if keep is None else keep.module.item())
        factors = self.told(_itself)
        w1 = factors.w1[0] if len(factors.w1) == 1 else factors.w1[0] @ factors.w1[1]
        w1 = w1 * factor
        x = self._widened(x)
        if self.geometry is None:
            x = x.reshape(*x.shape[:-1], w1.shape[1], -1)  # [..., in / n, n]
            for tensor in reversed(factors.w2):
                x = F.linear(x, tensor)  # [..., in / n, k]
            return torch.einsum("oi,...ik->...ok", w1, x).flatten(-2)
        batch, _, height, width = x.shape
        x = x.reshape(batch * w1.shape[1], -1, height, width)  # [b * in / n, n, h, w]
        x = self._times(x, factors.w2[-1])
        if len(factors.w2) == 2:
            x = F.conv2d(x, factors.w2[0][:, :, None, None])
        x = x.reshape(batch, w1.shape[1], *x.shape[1:])  # [b, in / n, k, h', w']
        return torch.einsum("oi,bi...->bo...", w1, x).flatten(1, 2)


def _itself(tensor: Tensor) -> Tensor:
    return tensor
