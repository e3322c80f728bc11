"""The kinds of adapter, each a module with one method: its update of one layer's output.

An update is a function of the layer's input and of the base's own weight W0, never of the output
of other adapters, so that several on one base add up in any order.

Sources: Hu et al., "LoRA" (arXiv:2106.09685), section 4.1; Kalajdzievski, "A Rank Stabilization
Scaling Factor for Fine-Tuning with LoRA" (arXiv:2312.03732); Liu et al., "DoRA: Weight-Decomposed
Low-Rank Adaptation" (arXiv:2402.09353). For convolutions the factors are a convolution to r
channels with the base's geometry and a 1x1 convolution back (cloneofsimo/lora, LyCORIS "LoCon").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_diffusion import algebra
from lora_diffusion.adapter import Factors
from lora_diffusion.algebra import MagnitudeAxis
from lora_diffusion.dropout import Clock, Dropout, Keep
from lora_diffusion.errors import InputError
from lora_diffusion.keys import LayerKey
from lora_diffusion.randomness import generator

Init = Literal["kaiming", "gaussian"]
KindName = Literal["lora", "dora", "rslora"]


class LoRA(nn.Module):
    """h = W0 x + alpha / r * B A x (Hu et al., arXiv:2106.09685, section 4.1).

    Parameters (fp32): `down` (A) `[r, in, *kernel]`, `up` (B) `[out, r, *1]`. B starts at zero.
    """

    axis: MagnitudeAxis | None = None  # whose channels have a magnitude: DoRA only

    def __init__(self, base: nn.Module, key: LayerKey, rank: int, alpha: float) -> None:
        super().__init__()
        weight = weight_of(base)
        if isinstance(base, nn.Conv2d) and base.groups != 1:
            raise InputError(f"{key}: is a grouped convolution, which LoRA does not cover.")
        self.key = key
        self.alpha = alpha
        self.dropout = Dropout()
        self.clock = Clock()
        # stride, padding and dilation of the first factor; None for a linear layer
        self.geometry: tuple[Any, Any, Any] | None = (
            (base.stride, base.padding, base.dilation) if isinstance(base, nn.Conv2d) else None
        )
        ones = (1,) * (weight.dim() - 2)
        self.down = nn.Parameter(_empty((rank, *weight.shape[1:]), weight.device))
        self.up = nn.Parameter(_empty((weight.shape[0], rank, *ones), weight.device).zero_())

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / r, whatever the kind: rsLoRA's alpha is kept folded."""
        return self.alpha / self.rank

    @torch.no_grad()
    def reset(self, init: Init, seed: int, weight: Tensor) -> None:
        """Draw A anew and set B to zero, a pure function of (seed, layer): the update is 0.

        `kaiming` is uniform in +-1/sqrt(fan_in) (Kaiming with a = sqrt 5, as `nn.Linear` and
        PEFT); `gaussian` has standard deviation 1/r, as in the paper's code.

        Args:
            weight: the base's own W0, from which some kinds start.
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

    @torch.no_grad()
    def set_factors(self, factors: Factors) -> None:
        """Take over the numbers of `factors`, which have this adapter's shapes."""
        self.alpha = factors.alpha
        self.down.copy_(factors.down)
        self.up.copy_(factors.up)

    def factors(self) -> Factors:
        """A copy on the CPU in fp32."""
        return Factors(down=_copied(self.down), up=_copied(self.up), alpha=self.alpha)

    def delta(self, weight: Tensor) -> Tensor:
        """What is added to the base's own `weight` (W0) at strength 1, shaped like it, >= fp32."""
        return algebra.delta(self.down, self.up, self.alpha)

    def forward(self, x: Tensor, weight: Tensor, strength: float = 1.0) -> Tensor:
        """strength times the update for `x`, shaped like the base's output.

        Args:
            x: `[..., in]` (linear) or `[b, in, h, w]` (convolution).
            weight: the base's own W0, `[out, in, *kernel]`, whatever is merged into the layer.
        """
        return self._low_rank(self._widened(x), self.scale * strength, self._kept())

    def _widened(self, x: Tensor) -> Tensor:
        return x if torch.is_autocast_enabled(x.device.type) else x.to(self.down.dtype)

    def _kept(self) -> Keep | None:
        if not (self.training and self.dropout.any):
            return None
        return Keep(self.dropout, self.rank, self.clock, self.key)

    def _low_rank(self, x: Tensor, factor: float, keep: Keep | None) -> Tensor:
        """factor * B A x, `[..., out]` or `[b, out, h', w']`."""
        inner = self._times(x, self.down)  # [..., r] or [b, r, h', w']
        if keep is not None:
            inner = inner * keep.inner(inner)
        # Scaling the r channels in the middle is cheaper than scaling the output.
        inner = inner if factor == 1 else inner * factor
        return F.linear(inner, self.up) if self.geometry is None else F.conv2d(inner, self.up)

    def _times(self, x: Tensor, weight: Tensor) -> Tensor:
        """`weight` applied to `x` with the base's geometry, without a bias."""
        if self.geometry is None:
            return F.linear(x, weight)
        stride, padding, dilation = self.geometry
        return F.conv2d(x, weight, None, stride, padding, dilation)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha:g}"


class RsLoRA(LoRA):
    """h = W0 x + alpha / sqrt(r) * B A x (Kalajdzievski, arXiv:2312.03732, theorem 3.2).

    No file format has a field for it, so alpha is kept as alpha' = alpha * sqrt(r): everybody's
    alpha' / r is alpha / sqrt(r).
    """

    def __init__(self, base: nn.Module, key: LayerKey, rank: int, alpha: float) -> None:
        super().__init__(base, key, rank, alpha * math.sqrt(rank))


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
        weight = weight_of(base)
        shape = algebra.magnitude_shape(tuple(weight.shape), axis)
        self.magnitude = nn.Parameter(_empty(shape, weight.device))
        self._start(weight)

    def reset(self, init: Init, seed: int, weight: Tensor) -> None:
        super().reset(init, seed, weight)
        self._start(weight)

    @torch.no_grad()
    def _start(self, weight: Tensor) -> None:
        self.magnitude.copy_(algebra.channel_norms(weight.to(self.magnitude.dtype), self.axis))

    @torch.no_grad()
    def set_factors(self, factors: Factors) -> None:
        super().set_factors(factors)
        assert factors.magnitude is not None
        self.magnitude.copy_(factors.magnitude)

    def factors(self) -> Factors:
        return Factors(
            down=_copied(self.down),
            up=_copied(self.up),
            alpha=self.alpha,
            magnitude=_copied(self.magnitude),
            magnitude_axis=self.axis,
        )

    def delta(self, weight: Tensor) -> Tensor:
        return algebra.dora_delta(self.down, self.up, self.alpha, self.magnitude, self.axis, weight)

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
            low_rank = algebra.delta(self.down, self.up, self.alpha)
            norms = algebra.channel_norms(weight.to(low_rank.dtype) + low_rank, self.axis)
        ratio = algebra.magnitude_ratio(self.magnitude, norms)
        return ratio.reshape(-1, *(1 for _ in self.down.shape[2:]))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, axis={self.axis}"


Variant = Callable[[nn.Module, LayerKey, int, float], LoRA]


def variant(kind: KindName, dora_axis: MagnitudeAxis = "in") -> Variant:
    """What makes adapters of a kind: (base layer, key, rank, alpha) -> adapter.

    Args:
        dora_axis: DoRA's axis; no other kind has one.
    """
    kinds: dict[KindName, Variant] = {
        "lora": LoRA,
        "rslora": RsLoRA,
        "dora": partial(DoRA, axis=dora_axis),
    }
    return kinds[kind]


def from_factors(base: nn.Module, key: LayerKey, factors: Factors) -> LoRA:
    """An adapter for `base` with the numbers of `factors`, which fit it."""
    kind: KindName = "lora" if factors.magnitude_axis is None else "dora"
    make = variant(kind, factors.magnitude_axis or "in")
    adapter = make(base, key, factors.rank, factors.alpha)
    adapter.set_factors(factors)
    return adapter


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a linear layer or convolution."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=device)


def _copied(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().to("cpu", torch.float32, copy=True).contiguous()
