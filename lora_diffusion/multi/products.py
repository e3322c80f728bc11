"""The updates of one layer for a batch whose samples use different adapters.

Two ways to the same numbers:

- `Segments` takes the rows of one adapter at a time through the adapter itself. It does for every
  kind, and on a CPU it is the quicker way for LoRA too: its pieces stay in the cache.
- `Padded` multiplies all rows in a pair of batched products, each sample's adapters side by side
  along r and padded with zeros to a common rank. It is LoRA's alone: DoRA, LoHa, LoKr and whole
  differences are not a product of two matrices with r between them. On a GPU it starts a few
  kernels a layer, where `Segments` starts five for each adapter.

Samples of very different ranks would be padded to the largest, so they are put into buckets of
ranks up to a power of two, with a pair of products each. Source: Sheng et al., "S-LoRA"
(arXiv:2311.03285), section 5.3, whose kernels need no padding; Chen et al., "Punica"
(arXiv:2310.18547), section 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lora_diffusion.variants import Adapter, DoRA, LoRA

_SMALLEST_BUCKET = 4


class Rows:
    """Which rows of a batch belong to some of its samples.

    A batch of `count` samples has its rows in turns: row i belongs to sample i mod `count`. With
    guidance there are two turns, the negative prompts' and the prompts'.
    """

    def __init__(self, samples: Sequence[int], count: int) -> None:
        self.samples = tuple(samples)
        self.count = count
        self._found: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def all(self) -> bool:
        """Whether every row is meant, in order."""
        return self.samples == tuple(range(self.count))

    def of(self, x: Tensor) -> Tensor:
        """Indices `[turns * samples]` of the rows in `x` `[turns * count, …]`, turn by turn."""
        key = len(x), x.device
        if key not in self._found:
            turns = torch.arange(0, len(x), self.count)[:, None]  # [turns, 1]
            rows = (turns + torch.tensor(self.samples)).flatten()
            self._found[key] = rows.to(x.device)
        return self._found[key]


class Update(ABC):
    """Adds some adapters' updates to a layer's output."""

    @abstractmethod
    def add_to(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """`y` with the updates for `x`; `y` itself may be changed.

        Args:
            y: the base's output, `[b, …, out]` or `[b, out, h', w']`.
            x: its input, `[b, …, in]` or `[b, in, h, w]`.
            weight: the base's own W0, `[out, in, *kernel]`.
        """


@dataclass(frozen=True, eq=False)
class Segments(Update):
    """One adapter after the other, of any kind; each is (adapter, its rows, strength)."""

    parts: Sequence[tuple[Adapter, Rows, float]]

    def add_to(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        for adapter, rows, strength in self.parts:
            if rows.all:
                y = y.add_(adapter(x, weight, strength).to(y.dtype))
            else:
                index = rows.of(x)
                update = adapter(x.index_select(0, index), weight, strength)
                y = y.index_add_(0, index, update.to(y.dtype))
        return y


class Padded(Update):
    """A pair of batched products for samples whose LoRAs are of like rank.

    Args:
        rows: the samples.
        stacks: of each of `rows.samples` its adapters and their strengths, at least one.
    """

    def __init__(self, rows: Rows, stacks: Sequence[Sequence[tuple[LoRA, float]]]) -> None:
        self._rows = rows
        first = stacks[0][0][0]
        self._geometry = first.geometry
        # [s, r, in, *kernel] and [s, r, out], ranks padded with zeros
        self._down = _stacked([[a.down * (a.scale * w) for a, w in stack] for stack in stacks])
        self._up = _stacked([[a.up.flatten(1).T for a, _ in stack] for stack in stacks])

    @property
    def nbytes(self) -> int:
        """Of the stacked factors, padding included."""
        return self._down.nbytes + self._up.nbytes

    def add_to(self, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        index = None if self._rows.all else self._rows.of(x)
        chosen = x if index is None else x.index_select(0, index)
        if not torch.is_autocast_enabled(x.device.type):
            chosen = chosen.float()
        turn = len(self._down)
        product = self._linear if self._geometry is None else self._conv
        update = torch.cat([product(rows) for rows in torch.split(chosen, turn)]).to(y.dtype)
        return y.add_(update) if index is None else y.index_add_(0, index, update)

    def _linear(self, x: Tensor) -> Tensor:
        """`[s, …, in]` -> `[s, …, out]`, s samples."""
        flat = x.reshape(len(x), -1, x.shape[-1])  # [s, n, in]
        inner = torch.bmm(flat, self._down.mT)  # [s, n, r]
        return torch.bmm(inner, self._up).reshape(*x.shape[:-1], -1)

    def _conv(self, x: Tensor) -> Tensor:
        """`[s, in, h, w]` -> `[s, out, h', w']`: one convolution with a group for each sample."""
        assert self._geometry is not None
        stride, padding, dilation = self._geometry
        side_by_side = x.reshape(1, -1, *x.shape[2:])  # [1, s * in, h, w]
        inner = F.conv2d(
            side_by_side, self._down.flatten(0, 1), None, stride, padding, dilation, len(x)
        )
        size = inner.shape[2:]
        inner = inner.reshape(len(x), self._down.shape[1], -1)  # [s, r, h' * w']
        return torch.bmm(self._up.mT, inner).reshape(len(x), -1, *size)


Use = tuple[int, Adapter, float]  # sample, adapter, strength


def segments(uses: Sequence[Use], count: int) -> list[Update]:
    """The updates of `uses` in a batch of `count` samples, one adapter and strength at a time.

    Args:
        uses: in the order of the samples; a sample uses an adapter once.
    """
    grouped: dict[tuple[Adapter, float], list[int]] = defaultdict(list)
    for sample, adapter, strength in uses:
        grouped[adapter, strength].append(sample)
    parts = [
        (adapter, Rows(samples, count), strength)
        for (adapter, strength), samples in grouped.items()
    ]
    return [Segments(parts)] if parts else []


def padded(uses: Sequence[Use], count: int) -> list[Update]:
    """The same in batched products, a pair for each bucket of ranks; other kinds in segments."""
    stacks: dict[int, list[tuple[LoRA, float]]] = defaultdict(list)
    others: list[Use] = []
    for sample, adapter, strength in uses:
        if isinstance(adapter, LoRA) and not isinstance(adapter, DoRA):
            stacks[sample].append((adapter, strength))
        else:
            others.append((sample, adapter, strength))
    buckets: dict[int, list[int]] = defaultdict(list)
    for sample in sorted(stacks):
        buckets[_bucket(sum(adapter.rank for adapter, _ in stacks[sample]))].append(sample)
    return [
        *(
            Padded(Rows(samples, count), [stacks[sample] for sample in samples])
            for samples in buckets.values()
        ),
        *segments(others, count),
    ]


def _stacked(parts: Sequence[Sequence[Tensor]]) -> Tensor:
    """Each sample's parts `[r_i, …]` one after the other, samples padded to `[s, r, …]`."""
    return pad_sequence([torch.cat(list(of_sample)) for of_sample in parts], batch_first=True)


def _bucket(rank: int) -> int:
    """The power of two that ranks up to are padded together."""
    return max(_SMALLEST_BUCKET, 1 << (rank - 1).bit_length())
