"""The adapted layer: a frozen linear layer or convolution with any number of named adapters.

`AdaptedLayer` stands where the base layer stood and holds it untouched:
y = base(x) + sum of strength_i * update_i(x), each update against the base's own weight.
"""

from __future__ import annotations

from torch import Tensor, nn

from lora_diffusion.variants import Adapter, weight_of


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

    def add(self, name: str, adapter: Adapter) -> None:
        self.adapters[name] = adapter
        self.strengths[name] = 1.0

    def discard(self, name: str) -> None:
        """Take one adapter off; it must not be merged."""
        del self.adapters[name], self.strengths[name]
        self.disabled.discard(name)

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
            y = y + adapter(x, self.own_weight, strength).to(y.dtype)
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
