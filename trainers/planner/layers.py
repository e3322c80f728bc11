"""The layers that Stable Diffusion's networks are made of, as operations on a tape. No torch.

What a layer keeps for the backward pass depends on what is trained: a frozen linear layer keeps
nothing, a frozen convolution its input, an adapted one its input and what is between A and B.
Source of the operations: huggingface/diffusers, models/{resnet,attention,attention_processor}.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from lora_diffusion.keys import LayerKey
from trainers.planner.tape import Stored, Tape

FP32 = 4


@dataclass(frozen=True)
class Adapted:
    """One adapted layer: its rank, how many numbers its adapter has, and its kind."""

    kind: str
    rank: int
    numel: int


@dataclass(frozen=True)
class Grid:
    """Feature maps of one level: batch, height and width."""

    batch: int
    height: int
    width: int

    @property
    def positions(self) -> int:
        return self.batch * self.height * self.width

    def half(self) -> Grid:
        return Grid(self.batch, (self.height + 1) // 2, (self.width + 1) // 2)

    def twice(self) -> Grid:
        return Grid(self.batch, 2 * self.height, 2 * self.width)


@dataclass(frozen=True)
class Net:
    """One model on a tape.

    Attributes:
        tape: where its operations are written down.
        part: `unet`, `text_encoder`, …
        adapted: layer -> what is trained in it.
        checkpointing: whether its blocks are recomputed in the backward pass.
    """

    tape: Tape
    part: str
    adapted: Mapping[LayerKey, Adapted] = field(default_factory=dict)
    checkpointing: bool = False

    def on(self, tape: Tape) -> Net:
        """The same model, written down elsewhere."""
        return Net(tape, self.part, self.adapted, self.checkpointing)

    def layer(
        self, path: str, x: Stored, positions: int, shape: tuple[int, ...], *, bias: bool = True
    ) -> Stored:
        """A linear layer or convolution, adapted or not.

        Args:
            positions: of the output: batch x tokens, or batch x height x width.
            shape: of its weight, `[out, in]` or `[out, in, *kernel]`.
        """
        tape, numel = self.tape, positions * shape[0]
        tape.weights += prod(shape) + (shape[0] if bias else 0)
        x = cast(tape, x, tape.width)
        is_conv = len(shape) > 2  # keeps its input, and works in a layout of its own
        y = tape.op(
            [x],
            numel,
            keeps=[x] if is_conv else [],
            forward_bytes=numel * tape.width if is_conv else 0,
        )
        adapter = self.adapted.get(LayerKey(self.part, path))
        if adapter is None:
            return y
        return tape.op([y, self._update(adapter, x, numel, shape)], numel, passes_grad=True)

    def _update(self, adapter: Adapted, x: Stored, numel: int, shape: tuple[int, ...]) -> Stored:
        tape = self.tape
        copied = adapter.numel * tape.width if tape.width < FP32 else 0  # autocast's own copy
        trained = adapter.numel * FP32
        if adapter.kind in ("loha", "lokr"):  # the whole update is made, as large as the weight
            size = prod(shape)
            delta = tape.op([], size, keeps_out=True, own_bytes=size * FP32, trained_bytes=trained)
            return tape.op([x, delta], numel, keeps=[x, delta])
        low = numel // shape[0] * adapter.rank
        if adapter.kind != "dora":
            inner = tape.op([x], low, keeps=[x], own_bytes=copied, trained_bytes=trained)
            return tape.op([inner], numel, keeps=[inner])
        # W0 (g - 1) x + B A g x: the scaled inputs and both products
        scaled = tape.op([x], x.numel, keeps=[x], trained_bytes=trained)
        turned = tape.op([x], x.numel, keeps=[x])
        base = tape.op([scaled], numel, keeps=[scaled] if len(shape) > 2 else [])
        inner = tape.op([turned], low, keeps=[turned], own_bytes=copied)
        up = tape.op([inner], numel, keeps=[inner])
        return tape.op([base, up], numel, passes_grad=True)


def cast(tape: Tape, x: Stored, width: int) -> Stored:
    """`x` in numbers of another width."""
    return x if x.width == width else tape.op([x], x.numel, width=width)


def norm(tape: Tape, x: Stored, channels: int, statistics: int) -> Stored:
    """Group or layer normalisation with a frozen weight; keeps its input and its statistics.

    Args:
        statistics: how many means there are, and as many deviations.
    """
    tape.weights += 2 * channels
    x = cast(tape, x, tape.norm_width)
    own = 2 * statistics * FP32
    return tape.op([x], x.numel, keeps=[x], own_bytes=own, width=tape.norm_width)


def silu(tape: Tape, x: Stored) -> Stored:
    return tape.op([x], x.numel, keeps=[x], width=x.width)


def add(tape: Tape, a: Stored, b: Stored) -> Stored:
    return tape.op([a, b], max(a.numel, b.numel), passes_grad=True)


def scaled(tape: Tape, x: Stored) -> Stored:
    """`x` times or divided by a plain number."""
    return tape.op([x], x.numel)


def attention(tape: Tape, q: Stored, k: Stored, v: Stored, rows: int) -> Stored:
    """Scaled dot-product attention in one kernel; keeps its inputs, output and row sums.

    Args:
        rows: batch x heads x queries.
    """
    return tape.op([q, k, v], q.numel, keeps=[q, k, v], keeps_out=True, own_bytes=rows * FP32)
