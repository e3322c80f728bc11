"""The adapted layer: a frozen linear layer or convolution with any number of named adapters.

`AdaptedLayer` stands where the base layer stood and holds it untouched. An adapter is a module
with one method, its update: y = base(x) + sum of strength_i * adapter_i(x).

Source: Hu et al., "LoRA" (arXiv:2106.09685), section 4.1; for convolutions the factors are a
convolution to r channels with the base's geometry and a 1x1 convolution back (cloneofsimo/lora,
LyCORIS "LoCon").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_diffusion.adapter import Factors
from lora_diffusion.errors import InputError
from lora_diffusion.keys import LayerKey
from lora_diffusion.randomness import generator

Init = Literal["kaiming", "gaussian"]


@dataclass(frozen=True)
class Dropout:
    """Shares dropped while training; all zero means the update is exact.

    Attributes:
        rank: of the r ranks, for the whole batch; the rest is scaled up by 1 / (1 - p).
        module: chance that the layer's update is dropped as a whole (stochastic depth).
        neuron: of the values between A and B, one by one, as `nn.Dropout`.
    """

    rank: float = 0.0
    module: float = 0.0
    neuron: float = 0.0

    @property
    def any(self) -> bool:
        return self.rank > 0 or self.module > 0 or self.neuron > 0


class Clock:
    """Where training stands: dropout masks are functions of (seed, step, layer).

    A mask drawn again for the same step, as gradient checkpointing does, is the same mask.
    """

    def __init__(self) -> None:
        self.seed = 0
        self.step = 0

    def set(self, seed: int, step: int) -> None:
        self.seed, self.step = seed, step


class LoRA(nn.Module):
    """One low-rank update: alpha / r * B A x, without the base's output.

    Parameters (fp32): `down` (A) `[r, in, *kernel]`, `up` (B) `[out, r, *1]`. B starts at zero.
    """

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
        """alpha / r."""
        return self.alpha / self.rank

    def reset(self, init: Init, seed: int) -> None:
        """Draw A anew and set B to zero; a pure function of (seed, layer).

        `kaiming` is uniform in +-1/sqrt(fan_in) (Kaiming with a = sqrt 5, as `nn.Linear` and
        PEFT); `gaussian` has standard deviation 1/r, as in the paper's code.
        """
        drawn = torch.empty(self.down.shape)
        source = generator("init", seed, str(self.key))
        with torch.no_grad():
            if init == "kaiming":
                bound = 1 / math.sqrt(self.down[0].numel())
                drawn.uniform_(-bound, bound, generator=source)
            else:
                drawn.normal_(0, 1 / self.rank, generator=source)
            self.down.copy_(drawn)
            self.up.zero_()

    def forward(self, x: Tensor, strength: float = 1.0) -> Tensor:
        """strength times the update for `x`, shaped like the base's output.

        x: `[..., in]` (linear) or `[b, in, h, w]` (convolution).
        """
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.down.dtype)
        keep = self._dropout_masks(x) if self.training and self.dropout.any else None
        if self.geometry is None:
            inner = self._scaled(F.linear(x, self.down), keep, strength)  # [..., r]
            return F.linear(inner, self.up)  # [..., out]
        stride, padding, dilation = self.geometry
        inner = F.conv2d(x, self.down, None, stride, padding, dilation)  # [b, r, h', w']
        return F.conv2d(self._scaled(inner, keep, strength), self.up)  # [b, out, h', w']

    def _scaled(self, inner: Tensor, keep: _Keep | None, strength: float) -> Tensor:
        # Scaling the r channels in the middle is cheaper than scaling the output.
        factor = self.scale * strength
        if keep is not None:
            inner = inner * keep(inner)
        return inner if factor == 1 else inner * factor

    def _dropout_masks(self, x: Tensor) -> _Keep:
        source = generator("dropout", self.clock.seed, self.clock.step, str(self.key))
        return _Keep(self.dropout, self.rank, source)

    def factors(self) -> Factors:
        """A copy on the CPU in fp32."""
        down, up = (t.detach().to("cpu", torch.float32, copy=True) for t in (self.down, self.up))
        return Factors(down=down.contiguous(), up=up.contiguous(), alpha=self.alpha)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}"


class _Keep:
    """Multiplier for the values between A and B, drawn from one generator in a fixed order."""

    def __init__(self, dropout: Dropout, rank: int, source: torch.Generator) -> None:
        self._dropout, self._rank, self._source = dropout, rank, source

    def __call__(self, inner: Tensor) -> Tensor:
        """A tensor that broadcasts against `inner`, `[..., r]` or `[b, r, h, w]`."""
        channel_axis = 1 if inner.dim() == 4 else -1
        shape = [1] * inner.dim()
        module_kept = torch.rand(1, generator=self._source) >= self._dropout.module
        shape[channel_axis] = self._rank
        ranks = self._mask(tuple(shape), self._dropout.rank) * module_kept
        if self._dropout.neuron > 0:
            ranks = ranks * self._mask(tuple(inner.shape), self._dropout.neuron)
        return ranks.to(inner.device, inner.dtype)

    def _mask(self, shape: tuple[int, ...], share: float) -> Tensor:
        kept = torch.rand(shape, generator=self._source) >= share
        return kept.float() / (1 - share)


class AdaptedLayer(nn.Module):
    """A base layer and its adapters by name.

    `strengths` holds each adapter's weight at run time; an adapter that is off or merged costs
    nothing in `forward`.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self.strengths: dict[str, float] = {}
        self.disabled: set[str] = set()
        # Set by merge.py: the base's own weight while others are baked in, and which those are.
        self.original_weight: Tensor | None = None
        self.merged: dict[str, float] = {}

    def add(self, name: str, adapter: LoRA) -> None:
        self.adapters[name] = adapter
        self.strengths[name] = 1.0

    def discard(self, name: str) -> None:
        """Take one adapter off; it must not be merged."""
        del self.adapters[name], self.strengths[name]
        self.disabled.discard(name)

    def adapter(self, name: str) -> LoRA:
        adapter = self.adapters[name]
        assert isinstance(adapter, LoRA)
        return adapter

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        for name, adapter in self.adapters.items():
            strength = self.strengths[name]
            if strength == 0 or name in self.merged or name in self.disabled:
                continue
            y = y + adapter(x, strength).to(y.dtype)
        return y

    # Code of diffusers and transformers asks a layer for these.
    @property
    def weight(self) -> Tensor:
        return weight_of(self.base)

    @property
    def bias(self) -> Tensor | None:
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias


def _empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=device)


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a linear layer or convolution."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def is_adaptable(layer: nn.Module) -> bool:
    """Whether a LoRA fits this layer: `nn.Linear`, or `nn.Conv2d` with one group."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
