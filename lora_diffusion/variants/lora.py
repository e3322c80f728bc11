"""LoRA and rsLoRA. For convolutions the factors are a convolution to r channels with the base's
geometry and a 1x1 convolution back (cloneofsimo/lora, LyCORIS "LoCon").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_diffusion.dropout import Keep
from lora_diffusion.factors import LoRAFactors
from lora_diffusion.keys import LayerKey
from lora_diffusion.randomness import generator
from lora_diffusion.variants.adapter import Adapter, Init, empty_parameter


class LoRA(Adapter):
    """h = W0 x + alpha / r * B A x (Hu et al., arXiv:2106.09685, section 4.1).

    On convolutions it is LoCon: A convolves with the layer's kernel, B with a 1 x 1 one (Yeh et
    al., arXiv:2309.14859, section 3).

    Parameters (fp32): `down` (A) `[r, in, *kernel]`, `up` (B) `[out, r, *1]`. B starts at zero.
    """

    def __init__(self, base: nn.Module, key: LayerKey, rank: int, alpha: float) -> None:
        super().__init__(base, key, alpha)
        outputs, *rest = self.weight_shape
        ones = (1,) * (len(rest) - 1)
        self.down = empty_parameter((rank, *rest), base)
        self.up = empty_parameter((outputs, rank, *ones), base)
        nn.init.zeros_(self.up)

    @classmethod
    def holding(cls, base: nn.Module, key: LayerKey, factors: Any) -> Self:
        adapter = cls(base, key, factors.rank, factors.alpha)
        adapter.set_factors(factors)
        return adapter

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @torch.no_grad()
    def reset(self, init: Init, seed: int, weight: Tensor) -> None:
        """Draw A anew and set B to zero, a pure function of (seed, layer): the update is 0.

        `kaiming` is uniform in +-1/sqrt(fan_in) (Kaiming with a = sqrt 5, as `nn.Linear` and
        PEFT); `gaussian` has standard deviation 1/r, as in the paper's code.
        """
        drawn = torch.empty(self.down.shape)
        source = generator("init", seed, str(self.key))
        if init == "kaiming":
            bound = 1 / math.sqrt(self.down[0].numel())
            drawn.uniform_(-bound, bound, generator=source)
        else:
            drawn.normal_(0, 1 / self.rank, generator=source)
        self.down.copy_(drawn)
        self.up.zero_()

    def told(self, of: Callable[[Tensor], Tensor]) -> LoRAFactors:
        return LoRAFactors(of(self.down), of(self.up), self.alpha)

    def forward(self, x: Tensor, weight: Tensor, strength: float = 1.0) -> Tensor:
        return self._low_rank(self._widened(x), self.scale * strength, self._kept())

    def _low_rank(self, x: Tensor, factor: float, keep: Keep | None) -> Tensor:
        """factor * B A x, `[..., out]` or `[b, out, h', w']`."""
        inner = self._times(x, self.down)  # [..., r] or [b, r, h', w']
        if keep is not None:
            inner = inner * keep.inner(inner)
        # Scaling the r channels in the middle is cheaper than scaling the output.
        inner = inner if factor == 1 else inner * factor
        return F.linear(inner, self.up) if self.geometry is None else F.conv2d(inner, self.up)


class RsLoRA(LoRA):
    """h = W0 x + alpha / sqrt(r) * B A x (Kalajdzievski, arXiv:2312.03732, theorem 3.2).

    No file format has a field for it, so alpha is kept as alpha' = alpha * sqrt(r): everybody's
    alpha' / r is alpha / sqrt(r).
    """

    def __init__(self, base: nn.Module, key: LayerKey, rank: int, alpha: float) -> None:
        super().__init__(base, key, rank, alpha * math.sqrt(rank))
