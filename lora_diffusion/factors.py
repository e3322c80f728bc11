"""One layer's update as numbers: a small family of frozen types, one for each way to factor it.

| type | update of a weight W0 |
| --- | --- |
| `LoRAFactors` | alpha / r * B A |
| `DoRAFactors` | m * (W0 + alpha / r * B A) / norm(W0 + alpha / r * B A) - W0 |
| `LoHaFactors` | alpha / r * (W1a W1b) * (W2a W2b), entry by entry |
| `LoKrFactors` | alpha / r * W1 (x) W2, Kronecker's product |
| `FullFactors` | the difference itself |

All speak of weights `[out, in]` (linear) or `[out, in, kh, kw]` (convolution). Where nothing is
factored there is no r; the rank is then the smaller side and alpha equals it, so that the scale
is 1, which is what every reader of such files takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from torch import Tensor

from lora_diffusion import algebra
from lora_diffusion.algebra import MagnitudeAxis
from lora_diffusion.errors import InputError
from lora_diffusion.shapes import Shape, full_rank

FactorsKind = Literal["lora", "dora", "loha", "lokr", "full"]


class Factors(ABC):
    """What all kinds have in common.

    Attributes:
        kind: which of them this is.
        alpha: the numerator of the scale; the denominator is the rank.
    """

    kind: ClassVar[FactorsKind]
    alpha: float

    @property
    @abstractmethod
    def rank(self) -> int:
        """r, the denominator of the scale."""

    @property
    @abstractmethod
    def weight_shape(self) -> Shape:
        """The shape of the base weight this belongs to."""

    @abstractmethod
    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        """What is added to the base's weight at strength 1, `weight_shape`, fp32 or wider.

        Args:
            base_weight: the untouched W0, on the factors' device. DoRA's update is a function of
                it; no other kind looks at it.

        Raises:
            InputError: this is DoRA and no base weight is given.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name, which is also that of the adapter module's parameter."""

    @abstractmethod
    def with_alpha(self, alpha: float) -> Self:
        """The same update told with another alpha; the factor that starts at 0 takes the rest."""

    @abstractmethod
    def shaped(self, weight_shape: Shape) -> Self:
        """The same numbers for a weight told in another shape.

        Args:
            weight_shape: with or without a trailing 1 x 1, or with the kernel that a flat
                `[out, in * kh * kw]` stands for. Its first axis and its size are `weight_shape`'s.
        """

    @property
    def is_conv(self) -> bool:
        return len(self.weight_shape) == 4


@dataclass(frozen=True, eq=False)
class LoRAFactors(Factors):
    """delta = alpha / r * B A (Hu et al., arXiv:2106.09685, section 4.1).

    rsLoRA is told here as alpha * sqrt(r), so that everybody's alpha / r is its alpha / sqrt(r).

    Attributes:
        down: A, `[r, in]` (linear) or `[r, in, kh, kw]` (convolution).
        up: B, `[out, r]` or `[out, r, 1, 1]`.
    """

    kind: ClassVar[FactorsKind] = "lora"
    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def weight_shape(self) -> Shape:
        return (self.up.shape[0], *self.down.shape[1:])

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        del base_weight
        return algebra.delta(self.down, self.up, self.alpha)

    def tensors(self) -> dict[str, Tensor]:
        return {"down": self.down, "up": self.up}

    def with_alpha(self, alpha: float) -> Self:
        return replace(self, up=_scaled(self.up, self.alpha / alpha), alpha=alpha)

    def shaped(self, weight_shape: Shape) -> Self:
        ones = (1,) * (len(weight_shape) - 2)
        return replace(
            self,
            down=self.down.reshape(self.rank, *weight_shape[1:]),
            up=self.up.reshape(weight_shape[0], self.rank, *ones),
        )


@dataclass(frozen=True, eq=False)
class DoRAFactors(LoRAFactors):
    """delta = m * V / norm(V) - W0, V = W0 + alpha / r * B A (Liu et al., arXiv:2402.09353, eq. 5).

    Attributes:
        magnitude: m, one norm for each channel of the axis: `[1, in]` or `[1, in, 1, 1]` along
            `in`, `[out, 1]` or `[out, 1, 1, 1]` along `out`.
        axis: whose channels m scales.
    """

    kind: ClassVar[FactorsKind] = "dora"
    magnitude: Tensor
    axis: MagnitudeAxis

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        if base_weight is None:
            raise InputError(
                "This is a DoRA adapter: its update is a function of the base's weights. Name the "
                "base model too."
            )
        return algebra.dora_delta(
            self.down, self.up, self.alpha, self.magnitude, self.axis, base_weight
        )

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"magnitude": self.magnitude}

    def shaped(self, weight_shape: Shape) -> Self:
        magnitude_shape = algebra.magnitude_shape(weight_shape, self.axis)
        return replace(
            super().shaped(weight_shape), magnitude=self.magnitude.reshape(magnitude_shape)
        )


@dataclass(frozen=True, eq=False)
class LoHaFactors(Factors):
    """delta = alpha / r * (W1a W1b) * (W2a W2b), a Hadamard product, of rank up to r squared.

    Source: Hyeon-Woo et al., "FedPara", arXiv:2108.06098, section 2.2, proposition 1; Yeh et al.,
    "LyCORIS", arXiv:2309.14859, section 3. Tucker's form (FedPara, proposition 3) is read as this
    one, whose rank is the same.

    Attributes:
        w1_a, w2_a: `[out, r]`.
        w1_b, w2_b: `[r, in]` or `[r, in, kh, kw]`.
    """

    kind: ClassVar[FactorsKind] = "loha"
    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.w1_b.shape[0]

    @property
    def weight_shape(self) -> Shape:
        return (self.w1_a.shape[0], *self.w1_b.shape[1:])

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        del base_weight
        return algebra.hadamard_delta(self.w1_a, self.w1_b, self.w2_a, self.w2_b, self.alpha)

    def tensors(self) -> dict[str, Tensor]:
        return {"w1_a": self.w1_a, "w1_b": self.w1_b, "w2_a": self.w2_a, "w2_b": self.w2_b}

    def with_alpha(self, alpha: float) -> Self:
        return replace(self, w2_a=_scaled(self.w2_a, self.alpha / alpha), alpha=alpha)

    def shaped(self, weight_shape: Shape) -> Self:
        return replace(
            self,
            w1_b=self.w1_b.reshape(self.rank, *weight_shape[1:]),
            w2_b=self.w2_b.reshape(self.rank, *weight_shape[1:]),
        )


@dataclass(frozen=True, eq=False)
class LoKrFactors(Factors):
    """delta = alpha / r * W1 (x) W2, Kronecker's product; scale 1 where neither is factored.

    Source: Edalati et al., "KronA", arXiv:2212.10650, section 3.1; Yeh et al., "LyCORIS",
    arXiv:2309.14859, section 3. Tucker's form of W2 is read as two factors of the same rank.

    Attributes:
        w1: W1 `[out / k, in / n]` as one tensor, or as two whose product it is: `[out / k, r]`
            and `[r, in / n]`.
        w2: W2 `[k, n]` or `[k, n, kh, kw]` likewise: two are `[k, r]` and `[r, n, *kernel]`.
    """

    kind: ClassVar[FactorsKind] = "lokr"
    w1: tuple[Tensor, ...]
    w2: tuple[Tensor, ...]
    alpha: float

    @property
    def rank(self) -> int:
        factored = next((pair for pair in (self.w1, self.w2) if len(pair) == 2), None)
        if factored is not None:
            return factored[1].shape[0]
        return full_rank(tuple(self.w2[0].shape))

    @property
    def weight_shape(self) -> Shape:
        inner = self.w2[-1].shape[1:]  # [n, *kernel]
        return (
            self.w1[0].shape[0] * self.w2[0].shape[0],
            self.w1[-1].shape[1] * inner[0],
            *inner[1:],
        )

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        del base_weight
        return algebra.kronecker_delta(self.w1, self.w2, self.alpha / self.rank)

    def tensors(self) -> dict[str, Tensor]:
        return _named("w1", self.w1) | _named("w2", self.w2)

    def with_alpha(self, alpha: float) -> Self:
        if len(self.w1) == len(self.w2) == 1:
            return self  # its scale is always 1
        last = _scaled(self.w2[-1], self.alpha / alpha)
        return replace(self, w2=(*self.w2[:-1], last), alpha=alpha)

    def shaped(self, weight_shape: Shape) -> Self:
        _, inputs, *kernel = weight_shape
        last = self.w2[-1]
        last = last.reshape(last.shape[0], inputs // self.w1[-1].shape[1], *kernel)
        return replace(self, w2=(*self.w2[:-1], last))


@dataclass(frozen=True, eq=False)
class FullFactors(Factors):
    """delta itself, unfactored: LyCORIS' `diff`. Its scale is 1.

    Attributes:
        diff: `[out, in]` or `[out, in, kh, kw]`.
    """

    kind: ClassVar[FactorsKind] = "full"
    diff: Tensor
    alpha: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", float(self.rank))

    @property
    def rank(self) -> int:
        return full_rank(self.weight_shape)

    @property
    def weight_shape(self) -> Shape:
        return tuple(self.diff.shape)

    def delta(self, base_weight: Tensor | None = None) -> Tensor:
        del base_weight
        return algebra.wide(self.diff)

    def tensors(self) -> dict[str, Tensor]:
        return {"diff": self.diff}

    def with_alpha(self, alpha: float) -> Self:
        del alpha
        return self

    def shaped(self, weight_shape: Shape) -> Self:
        return replace(self, diff=self.diff.reshape(weight_shape))


def _named(name: str, parts: tuple[Tensor, ...]) -> dict[str, Tensor]:
    if len(parts) == 1:
        return {name: parts[0]}
    return {f"{name}_a": parts[0], f"{name}_b": parts[1]}


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else algebra.wide(tensor) * factor
