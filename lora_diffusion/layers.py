"""The adapted layer: a frozen linear layer or convolution with any number of named adapters.

`AdaptedLayer` stands where the base layer stood and holds it untouched:
y = base(x) + sum of strength_i * update_i(x), each update against the base's own weight, in the
order of the adapters' names, so that the order in which they came changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lora_diffusion.variants import Adapter, weight_of

Gate = Callable[[Tensor], Tensor | None]


class AdaptedLayer(nn.Module):
    """A base layer and its adapters by name.

    `strengths` holds each adapter's weight at run time; an adapter that is off or merged costs
    nothing in `forward`. `gates` holds what lets an adapter's update through, for adapters that act
    in one part of the picture: it returns the update as it is added, or None for nothing.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self.strengths: dict[str, float] = {}
        self.disabled: set[str] = set()
        self.gates: dict[str, Gate] = {}
        # Set by merge.py: the base's own weight while others are baked in, and which those are.
        self.original_weight: Tensor | None = None
        self.merged: dict[str, float] = {}

    def add(self, name: str, adapter: Adapter) -> None:
        self.adapters = nn.ModuleDict(dict(sorted([*self.adapters.items(), (name, adapter)])))
        self.strengths[name] = 1.0

    def discard(self, name: str) -> None:
        """Take one adapter off; it must not be merged."""
        del self.adapters[name], self.strengths[name]
        self.disabled.discard(name)
        self.gates.pop(name, None)

    def adapter(self, name: str) -> Adapter:
        adapter = self.adapters[name]
        assert isinstance(adapter, Adapter)
        return adapter

    @property
    def own_weight(self) -> Tensor:
        """W0: the base's own weight, whatever is merged into it at the moment."""
        return weight_of(self.base) if self.original_weight is None else self.original_weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        for name, adapter in self.adapters.items():
            strength = self.strengths[name]
            if strength == 0 or name in self.merged or name in self.disabled:
                continue
            update = adapter(x, self.own_weight, strength)
            gate = self.gates.get(name)
            update = update if gate is None else gate(update)
            if update is not None:
                y = y + update.to(y.dtype)
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


def is_adaptable(layer: nn.Module) -> bool:
    """Whether an adapter fits this layer: `nn.Linear`, or `nn.Conv2d` with one group."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
