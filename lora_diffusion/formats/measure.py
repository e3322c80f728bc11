"""What one layer's tensors are, by their shapes: of which kind, which rank, for which weight.

No torch. The weight is `[out, in, *kernel]`, r the rank, and a 1 x 1 kernel may be left out.

- lora: down `[r, in, *kernel]`, up `[out, r, *1]`. Tucker's form: down `[r, in, 1, 1]`, then mid
  `[r, r, kh, kw]`.
- dora: as lora, and a magnitude, `[1, in, *1]` or `[out, 1, *1]` by the axis that its norm keeps;
  PEFT's is `[out]`, of convolutions `[1, out, 1, 1]`.
- loha: w1_a and w2_a `[out, r]`, w1_b and w2_b `[r, in * kh * kw]`. Tucker's form: w_a `[r, out]`,
  w_b `[r, in]`, t1 and t2 `[r, r, kh, kw]`.
- lokr: w1 `[m, p]`, or w1_a `[m, r]` and w1_b `[r, p]`; w2 `[k, n, *kernel]`, or w2_a `[k, r]` and
  w2_b `[r, n * kh * kw]`, with out = m k and in = p n. Tucker's form: w2_a `[r, k]`, w2_b `[r, n]`,
  t2 `[r, r, kh, kw]`.
- full: diff, shaped like the weight.

Sources: kohya-ss/sd-scripts, networks/lora.py; KohakuBlueleaf/LyCORIS, lycoris/modules/locon.py,
loha.py, lokr.py and full.py; PEFT, src/peft/tuners/lora/dora.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NoReturn

from lora_diffusion.formats.header import refuse
from lora_diffusion.formats.spelling import (
    ALPHA,
    DIFF,
    DOWN,
    LYCORIS_LEAVES,
    MAGNITUDE,
    MID,
    UP,
    Leaf,
)
from lora_diffusion.shapes import Shape, full_rank

Axis = Literal["in", "out"]
Kind = Literal["lora", "dora", "loha", "lokr", "full"]

_WORDS: Mapping[Leaf, str] = {
    DOWN: "down factor (lora_down or lora_A)",
    UP: "up factor (lora_up or lora_B)",
}


@dataclass(frozen=True)
class Measured:
    """One layer's kind and sizes.

    Attributes:
        kind: how it is factored.
        rank: r; where nothing is factored, the smaller side of what is there.
        weight_shape: of the base weight that the tensors imply; `[out, in * kh * kw]` where they
            tell no kernel.
        columns: where they tell no kernel, how many of the weight's columns one factor has.
        is_scaled: whether alpha / rank scales the update.
        axis: which axis of the weight DoRA's magnitude runs along; None for other kinds.
    """

    kind: Kind
    rank: int
    weight_shape: Shape
    columns: int | None = None
    is_scaled: bool = True
    axis: Axis | None = None


@dataclass(frozen=True)
class Tensors:
    """The tensors of one layer.

    Attributes:
        source: file name for messages.
        stem: the layer as the file spells it, for messages.
        shapes: of each.
        peft_magnitudes: whether DoRA's magnitude has PEFT's shape.
    """

    source: str | Path
    stem: str
    shapes: Mapping[Leaf, Shape]
    peft_magnitudes: bool = False

    def __contains__(self, leaf: Leaf) -> bool:
        return leaf in self.shapes

    def __getitem__(self, leaf: Leaf) -> Shape:
        if leaf not in self.shapes:
            self.refuse(f"the layer '{self.stem}' has no {_WORDS.get(leaf, leaf)}")
        return self.shapes[leaf]

    def refuse(self, reason: str) -> NoReturn:
        refuse(self.source, reason, "The file is incomplete or damaged; export it again.")

    def one_rank(self, *ranks: int) -> int:
        """The rank that all say."""
        if len(set(ranks)) != 1:
            told = " and ".join(str(rank) for rank in dict.fromkeys(ranks))
            self.refuse(f"the factors of '{self.stem}' disagree about the rank: {told}")
        return ranks[0]


def measure(tensors: Tensors) -> Measured:
    """The kind and sizes of a layer.

    Raises:
        AdapterFileError: tensors are missing, of two kinds, empty, or don't match each other.
    """
    kinds = {_KIND_OF[leaf]: leaf for leaf in tensors.shapes if leaf in _KIND_OF}
    if len(kinds) > 1:
        told = " and ".join(kinds.values())
        tensors.refuse(f"the layer '{tensors.stem}' has tensors of two kinds, {told}")
    measured = _MEASURES[next(iter(kinds), "lora")](tensors)
    if any(0 in shape for shape in tensors.shapes.values()):
        tensors.refuse(f"the factors of '{tensors.stem}' are empty")
    if ALPHA in tensors and math.prod(tensors[ALPHA]) != 1:
        tensors.refuse(f"the alpha of '{tensors.stem}' is not one number")
    if MAGNITUDE in tensors:
        if measured.kind != "lora":
            refuse(
                tensors.source,
                f"the layer '{tensors.stem}' has DoRA's magnitude beside {measured.kind} factors",
                "DoRA is read on LoRA layers only.",
            )
        axis = _magnitude_axis(tensors, measured.weight_shape)
        measured = replace(measured, kind="dora", axis=axis)
    return measured


def _lora(tensors: Tensors) -> Measured:
    down, up = tensors[DOWN], tensors[UP]
    if len(down) not in (2, 4) or len(up) != len(down) or up[2:] != (1,) * (len(up) - 2):
        tensors.refuse(
            f"the factors of '{tensors.stem}' have shapes {list(down)} and {list(up)}, not LoRA's"
        )
    rank = tensors.one_rank(down[0], up[1])
    kernel = down[2:]
    if MID in tensors:
        kernel = _core(tensors, MID, rank)
        if down[2:] != (1, 1):
            tensors.refuse(f"the down factor of '{tensors.stem}' is not Tucker's form")
    return Measured("lora", rank, (up[0], down[1], *kernel))


def _loha(tensors: Tensors) -> Measured:
    first = _product(tensors, "hada_w1_a", "hada_w1_b", "hada_t1")
    second = _product(tensors, "hada_w2_a", "hada_w2_b", "hada_t2")
    if first.shape != second.shape:
        tensors.refuse(
            f"the two products of '{tensors.stem}' have shapes {list(first.shape)} and "
            f"{list(second.shape)}, which must be the same"
        )
    rank = tensors.one_rank(first.rank, second.rank)
    is_flat = len(first.shape) == 2
    return Measured("loha", rank, first.shape, columns=first.shape[1] if is_flat else None)


def _lokr(tensors: Tensors) -> Measured:
    left = _block(tensors, "lokr_w1", "lokr_w1_a", "lokr_w1_b", None)
    right = _block(tensors, "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
    if len(left.shape) != 2:
        tensors.refuse(f"the w1 of '{tensors.stem}' has the shape {list(left.shape)}, not a matrix")
    ranks = [block.rank for block in (left, right) if block.rank]
    outputs, inputs, *kernel = right.shape
    return Measured(
        "lokr",
        tensors.one_rank(*ranks) if ranks else full_rank(right.shape),
        (left.shape[0] * outputs, left.shape[1] * inputs, *kernel),
        columns=None if kernel else inputs,
        is_scaled=bool(ranks),
    )


def _full(tensors: Tensors) -> Measured:
    shape = tensors[DIFF]
    if len(shape) not in (2, 4):
        tensors.refuse(f"the diff of '{tensors.stem}' has the shape {list(shape)}, not a weight's")
    if ALPHA in tensors:
        tensors.refuse(f"the layer '{tensors.stem}' has a diff and an alpha, which scales nothing")
    return Measured("full", full_rank(shape), shape, is_scaled=False)


@dataclass(frozen=True)
class _Matrix:
    """A factor: its shape, flat where no kernel is told, and its rank; 0 if it is one tensor."""

    shape: Shape
    rank: int


def _block(tensors: Tensors, whole: Leaf, a: Leaf, b: Leaf, core: Leaf | None) -> _Matrix:
    """One of LoKr's two factors: a tensor, or the product of two."""
    if whole not in tensors:
        return _product(tensors, a, b, core)
    extra = [leaf for leaf in (a, b, core) if leaf and leaf in tensors]
    if extra:
        tensors.refuse(f"the layer '{tensors.stem}' is told twice, as {whole} and {extra[0]}")
    shape = tensors[whole]
    if len(shape) not in (2, 4):
        tensors.refuse(f"the {whole} of '{tensors.stem}' has the shape {list(shape)}, not LoKr's")
    return _Matrix(shape, 0)


def _product(tensors: Tensors, a: Leaf, b: Leaf, core: Leaf | None) -> _Matrix:
    """`[rows, r]` times `[r, columns]`, or Tucker's `[r, rows]`, `[r, columns]` and core."""
    left, right = tensors[a], tensors[b]
    if len(left) != 2 or len(right) != 2:
        tensors.refuse(
            f"the {a} and {b} of '{tensors.stem}' have shapes {list(left)} and {list(right)}, "
            "where matrices belong"
        )
    if core is None or core not in tensors:
        return _Matrix((left[0], right[1]), tensors.one_rank(left[1], right[0]))
    rank = tensors.one_rank(left[0], right[0])
    return _Matrix((left[1], right[1], *_core(tensors, core, rank)), rank)


def _core(tensors: Tensors, leaf: Leaf, rank: int) -> Shape:
    """The kernel of Tucker's core."""
    core = tensors[leaf]
    if len(core) != 4 or core[:2] != (rank, rank):
        tensors.refuse(
            f"the middle factor of '{tensors.stem}' has the shape {list(core)} at rank {rank}, "
            "which is not Tucker's form"
        )
    return core[2:]


_MEASURES: Mapping[Kind, Callable[[Tensors], Measured]] = MappingProxyType(
    {"lora": _lora, "loha": _loha, "lokr": _lokr, "full": _full}
)
_KIND_OF: Mapping[Leaf, Kind] = MappingProxyType(
    {
        DOWN: "lora",
        MID: "lora",
        UP: "lora",
        DIFF: "full",
        **{leaf: "loha" if leaf.startswith("hada") else "lokr" for leaf in LYCORIS_LEAVES},
    }
)


def _magnitude_axis(tensors: Tensors, weight_shape: Shape) -> Axis:
    """Which axis a magnitude of this shape runs along; see the head of this file."""
    shape = tensors[MAGNITUDE]
    outputs, inputs, *kernel = weight_shape
    ones = (1,) * len(kernel)
    if tensors.peft_magnitudes:
        fits = {"out": shape == ((1, outputs, *ones) if kernel else (outputs,))}
    else:
        fits = {"in": shape == (1, inputs, *ones), "out": shape == (outputs, 1, *ones)}
    axes: list[Axis] = [axis for axis in ("in", "out") if fits.get(axis)]
    if len(axes) != 1:
        what = "neither axis" if not axes else "either axis"
        tensors.refuse(
            f"the DoRA magnitude of '{tensors.stem}' has the shape {list(shape)}, which fits "
            f"{what} of a weight of shape {list(weight_shape)}"
        )
    return axes[0]
