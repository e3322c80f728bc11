"""Dropouts of adapters: masks that are functions of (seed, step, layer), never of global state.

What differs from row to row is a function of the row's place in the run as well, so that a batch
may be split up, over passes or over devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lora_diffusion.keys import LayerKey
from lora_diffusion.randomness import generator


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

    Attributes:
        places: of the batch's pictures in the run; empty numbers them from 0.
    """

    def __init__(self) -> None:
        self.seed = 0
        self.step = 0
        self.places: tuple[int, ...] = ()

    def set(self, seed: int, step: int, places: tuple[int, ...] = ()) -> None:
        self.seed, self.step, self.places = seed, step, places


class Keep:
    """What one layer keeps at one step, drawn in a fixed order.

    Attributes:
        module: 1 or 0, `[1]`, fp32 on the CPU: whether the layer's update is kept as a whole.
    """

    def __init__(self, dropout: Dropout, rank: int, clock: Clock, key: LayerKey) -> None:
        self._dropout, self._rank = dropout, rank
        self._labels = ("dropout", clock.seed, clock.step, str(key))
        self._places = clock.places
        self._source = generator(*self._labels)
        self.module = (torch.rand(1, generator=self._source) >= dropout.module).float()

    def inner(self, inner: Tensor) -> Tensor:
        """A multiplier for the values between A and B, `[..., r]` or `[b, r, h, w]`.

        It broadcasts against `inner` and has its device and dtype.
        """
        channel_axis = 1 if inner.dim() == 4 else -1
        shape = [1] * inner.dim()
        shape[channel_axis] = self._rank
        kept = _mask(tuple(shape), self._dropout.rank, self._source) * self.module
        if self._dropout.neuron > 0:
            kept = kept * self._by_row(tuple(inner.shape))
        return kept.to(inner.device, inner.dtype)

    def _by_row(self, shape: tuple[int, ...]) -> Tensor:
        """A mask of `shape`, in which each place's rows are its own draw."""
        places = self._places or tuple(range(shape[0]))
        rows = shape[0] // len(places)  # captions of several chunks have several
        sources = (generator(*self._labels, place) for place in places)
        masks = [_mask((rows, *shape[1:]), self._dropout.neuron, source) for source in sources]
        return torch.cat(masks)


def _mask(shape: tuple[int, ...], share: float, source: torch.Generator) -> Tensor:
    kept = torch.rand(shape, generator=source) >= share
    return kept.float() / (1 - share)
