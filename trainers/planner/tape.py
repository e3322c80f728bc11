"""What the allocator goes through in one forward and backward pass. No torch, no arithmetic.

A network is written down as the operations that it does (`Tape.op`), each with what it reads, what
it makes and what autograd keeps of it until the backward pass. `Tape.peak` then walks through the
operations forwards and backwards, with every tensor freed as soon as nobody needs it, and returns
the most bytes alive at once. Views are the tensor that they look at.

Source of what is kept: PyTorch, tools/autograd/derivatives.yaml.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """One storage.

    Attributes:
        numel: numbers in it.
        width: bytes of one number.
        needs_grad: whether a trained parameter lies behind it.
    """

    numel: int
    width: int
    needs_grad: bool = False

    @property
    def bytes(self) -> int:
        return self.numel * self.width


@dataclass(eq=False, slots=True)
class _Op:
    reads: tuple[Stored, ...]
    out: Stored
    keeps: tuple[Stored, ...]
    own_bytes: int  # kept by this operation alone
    trained_bytes: int  # gradients of its parameters, which stay
    forward_bytes: int  # needed while it runs
    backward_bytes: int
    passes_grad: bool  # the gradient of the output is that of the inputs: no new tensor
    inner: Tape | None = None  # recomputed in the backward pass


@dataclass(eq=False)
class Tape:
    """The operations of one pass, in order.

    Attributes:
        width: bytes of a number in activations.
        norm_width: bytes of a number inside normalisations; wider than `width` under a GPU's
            autocast, which computes them in fp32.
        weights: numbers in the weights of the layers written down so far.
    """

    width: int = 4
    norm_width: int = 4
    weights: int = 0
    ops: list[_Op] = field(default_factory=list)

    def tensor(self, numel: int, *, width: int | None = None, needs_grad: bool = False) -> Stored:
        """A tensor that is there before the pass, or a parameter."""
        return Stored(numel, width or self.width, needs_grad)

    def op(
        self,
        reads: Sequence[Stored],
        numel: int,
        *,
        keeps: Sequence[Stored] = (),
        keeps_out: bool = False,
        own_bytes: int = 0,
        trained_bytes: int = 0,
        forward_bytes: int = 0,
        backward_bytes: int = 0,
        passes_grad: bool = False,
        width: int | None = None,
    ) -> Stored:
        """Write down one operation; returns its output.

        Args:
            reads: its inputs.
            numel: numbers in its output.
            keeps: what autograd keeps of it, if a gradient flows through it.
            keeps_out: whether that includes its output.
            own_bytes: what it keeps besides, such as the statistics of a normalisation.
            trained_bytes: the gradients of its parameters.
            forward_bytes, backward_bytes: what it needs only while it runs.
            passes_grad: whether its gradient is handed on as it is (a sum).
            width: bytes of a number in the output; unset is the activations'.
        """
        needs_grad = trained_bytes > 0 or any(tensor.needs_grad for tensor in reads)
        out = Stored(numel, width or self.width, needs_grad)
        kept = (*keeps, out) if keeps_out else tuple(keeps)
        self.ops.append(
            _Op(
                tuple(reads), out, kept if needs_grad else (), own_bytes if needs_grad else 0,
                trained_bytes, forward_bytes, backward_bytes, passes_grad,
            )
        )  # fmt: skip
        return out

    def hold(self, *tensors: Stored) -> None:
        """Somebody has a name for these up to here, so they are not freed before."""
        self.op(tensors, 0)

    def checkpointed(
        self, reads: Sequence[Stored], write: Callable[[Tape], Stored], on: bool
    ) -> Stored:
        """What `write` writes down; if `on`, forgotten after the forward pass and done again."""
        if not on:
            return write(self)
        inner = Tape(self.width, self.norm_width)
        out = write(inner)
        self.weights += inner.weights
        trained = sum(op.trained_bytes for op in inner.ops)
        result = Stored(out.numel, out.width, out.needs_grad)
        kept = tuple(reads) if out.needs_grad else ()
        self.ops.append(_Op(tuple(reads), result, kept, 0, trained, 0, 0, False, inner))
        return result

    def peak(self, *, backward: bool) -> int:
        """Most bytes alive at once, of what this pass makes; what it is given is not counted."""
        return _Walk(self.ops, backward).run()


@dataclass(eq=False, slots=True)
class _Grad:
    """A gradient, which several tensors may share: a sum hands on the one it got."""

    bytes: int
    holders: int = 0


class _Walk:
    """One walk through the operations, with the bytes alive at each moment."""

    def __init__(self, ops: Sequence[_Op], backward: bool) -> None:
        self.ops = ops
        self.backward = backward
        self.alive = 0
        self.most = 0
        self.made: set[Stored] = set()
        self.holders: Counter[Stored] = Counter(tensor for op in ops for tensor in op.reads)
        self.grads: dict[Stored, _Grad] = {}

    def run(self) -> int:
        for op in self.ops:
            self._forward(op)
        if self.backward and self.ops and self.ops[-1].out.needs_grad:
            last = self.ops[-1].out
            self._give(last, _Grad(last.bytes))
            for op in reversed(self.ops):
                self._backward(op)
        return self.most

    def _forward(self, op: _Op) -> None:
        inside = op.inner.peak(backward=False) if op.inner else op.out.bytes + op.forward_bytes
        self._note(inside)
        self._take(op.out.bytes)
        self.made.add(op.out)
        if self.backward:
            self._take(op.own_bytes)
            for tensor in op.keeps:
                self.holders[tensor] += 1
        if not self.holders[op.out]:
            self._free(op.out)
        for tensor in op.reads:
            self._release(tensor)

    def _backward(self, op: _Op) -> None:
        grad = self.grads.pop(op.out, None)
        if grad is not None:
            takers = [tensor for tensor in dict.fromkeys(op.reads) if tensor.needs_grad]
            inside = op.inner.peak(backward=True) if op.inner else op.backward_bytes
            fresh = 0 if op.inner else sum(t.bytes for t in takers if not self._passed(op, t))
            self._note(inside + fresh + (0 if op.inner else op.trained_bytes))
            self._take(op.trained_bytes)
            for tensor in takers:
                self._give(tensor, grad if self._passed(op, tensor) else _Grad(tensor.bytes))
            self._drop(grad)
        if op.keeps or op.own_bytes:
            self.alive -= op.own_bytes
            for tensor in op.keeps:
                self._release(tensor)

    @staticmethod
    def _passed(op: _Op, tensor: Stored) -> bool:
        return op.passes_grad and tensor.numel == op.out.numel

    def _give(self, tensor: Stored, grad: _Grad) -> None:
        """Let `grad` be the gradient of `tensor`, or add it to what is there."""
        if not grad.holders:
            self._take(grad.bytes)
        there = self.grads.get(tensor)
        if there is None:
            grad.holders += 1
            self.grads[tensor] = grad
        elif not grad.holders:  # added up in place, into either
            self.alive -= grad.bytes
        elif there.holders > 1:
            total = _Grad(tensor.bytes, holders=1)
            self._take(total.bytes)
            self.grads[tensor] = total
            there.holders -= 1

    def _drop(self, grad: _Grad) -> None:
        grad.holders -= 1
        if not grad.holders:
            self.alive -= grad.bytes

    def _release(self, tensor: Stored) -> None:
        self.holders[tensor] -= 1
        if not self.holders[tensor]:
            self._free(tensor)

    def _free(self, tensor: Stored) -> None:
        if tensor in self.made:
            self.made.discard(tensor)
            self.alive -= tensor.bytes

    def _take(self, count: int) -> None:
        self.alive += count
        self.most = max(self.most, self.alive)

    def _note(self, count: int) -> None:
        self.most = max(self.most, self.alive + count)
