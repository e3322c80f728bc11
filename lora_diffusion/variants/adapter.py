"""What every kind of adapter is: a module with one method, its update of one layer's output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_diffusion.dropout import Clock, Dropout, Keep
from lora_diffusion.errors import InputError
from lora_diffusion.factors import Factors
from lora_diffusion.keys import LayerKey

Init = Literal["kaiming", "gaussian"]


class Adapter(nn.Module, ABC):
    """One layer's adapter. Its parameters (fp32) are named as its factors' tensors are.

    Attributes:
        key: which layer it is for.
        alpha: the numerator of the scale.
        weight_shape: of the base weight, `[out, in, *kernel]`.
        dropout, clock: what is dropped while training.
    """

    def __init__(self, base: nn.Module, key: LayerKey, alpha: float) -> None:
        super().__init__()
        if isinstance(base, nn.Conv2d) and base.groups != 1:
            raise InputError(f"{key}: is a grouped convolution, which adapters do not cover.")
        self.key = key
        self.alpha = alpha
        self.weight_shape: tuple[int, ...] = tuple(weight_of(base).shape)
        self.dropout = Dropout()
        self.clock = Clock()
        # stride, padding and dilation of the layer; None for a linear one
        self.geometry: tuple[Any, Any, Any] | None = (
            (base.stride, base.padding, base.dilation) if isinstance(base, nn.Conv2d) else None
        )

    @classmethod
    @abstractmethod
    def holding(cls, base: nn.Module, key: LayerKey, factors: Any) -> Self:
        """An adapter for `base` with the numbers of `factors`, which are of its kind and fit."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """r."""

    @property
    def scale(self) -> float:
        """alpha / r, whatever the kind: rsLoRA's alpha is kept folded."""
        return self.alpha / self.rank

    @property
    def has_kernel(self) -> bool:
        """Whether the layer is a convolution with a kernel above 1x1."""
        return max(self.weight_shape[2:], default=1) > 1

    @abstractmethod
    def reset(self, init: Init, seed: int, weight: Tensor) -> None:
        """Draw the start anew, a pure function of (seed, layer): the update is 0.

        Args:
            init: how the factors that do not start at 0 are drawn.
            weight: the base's own W0, from which some kinds start.
        """

    @abstractmethod
    def told(self, of: Callable[[Tensor], Tensor]) -> Factors:
        """The factors, each being `of` a parameter."""

    def factors(self) -> Factors:
        """A copy on the CPU in fp32."""
        return self.told(_copied)

    @torch.no_grad()
    def set_factors(self, factors: Factors) -> None:
        """Take over the numbers of `factors`, which are of this kind and these shapes."""
        self.alpha = factors.alpha
        for name, tensor in factors.tensors().items():
            self.get_parameter(name).copy_(tensor)

    def delta(self, weight: Tensor) -> Tensor:
        """What is added to the base's own `weight` (W0) at strength 1, shaped like it, >= fp32."""
        return self.told(lambda parameter: parameter).delta(weight)

    @abstractmethod
    def forward(self, x: Tensor, weight: Tensor, strength: float = 1.0) -> Tensor:
        """strength times the update for `x`, shaped like the base's output.

        Args:
            x: `[..., in]` (linear) or `[b, in, h, w]` (convolution).
            weight: the base's own W0, `[out, in, *kernel]`, whatever is merged into the layer.
        """

    def _widened(self, x: Tensor) -> Tensor:
        return x if torch.is_autocast_enabled(x.device.type) else x.float()

    def _kept(self) -> Keep | None:
        if not (self.training and self.dropout.any):
            return None
        return Keep(self.dropout, self.rank, self.clock, self.key)

    def _times(self, x: Tensor, weight: Tensor) -> Tensor:
        """`weight` applied to `x` with the base's geometry, without a bias."""
        if self.geometry is None:
            return F.linear(x, weight)
        stride, padding, dilation = self.geometry
        return F.conv2d(x, weight, None, stride, padding, dilation)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha:g}"


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a linear layer or convolution."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def empty_parameter(shape: tuple[int, ...], base: nn.Module) -> nn.Parameter:
    """An fp32 parameter of `shape` where the base's weight is, its numbers yet to be set."""
    return nn.Parameter(torch.empty(shape, dtype=torch.float32, device=weight_of(base).device))


def _copied(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", torch.float32, copy=True).contiguous()
