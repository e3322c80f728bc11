"""Which tensors make which layer, by names and shapes alone. No torch.

Everything that can be refused without reading a tensor is refused here, above all factors whose
product would be enormous: under a megabyte of factors can stand for 80 GB of update.

Shapes: down `[r, in]` (convolution `[r, in, kh, kw]`), up `[out, r]` (`[out, r, 1, 1]`), alpha one
number. Tucker's core, of convolutions: mid `[r, r, kh, kw]` with a down of `[r, in, 1, 1]`. DoRA's
magnitude: `[1, in]` or `[out, 1]` in kohya's and LyCORIS' files, by the axis that
its norm keeps (convolutions with two more ones), `[out]` in PEFT's (convolutions `[1, out, 1, 1]`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_diffusion.formats.header import Header, refuse
from lora_diffusion.formats.spelling import ALPHA, DOWN, MAGNITUDE, MID, UP, Leaf, Spelling
from lora_diffusion.keys import LayerKey

Shape = tuple[int, ...]
Axis = Literal["in", "out"]

MAX_LAYER_ELEMENTS = 1 << 27  # four times the largest layer of SDXL; 512 MiB in fp32
MAX_ADAPTER_BYTES = 16 << 30
MAX_SCALE = 1_000.0  # alpha / rank
_LEAF_WORDS: Mapping[Leaf, str] = {
    DOWN: "down factor (lora_down or lora_A)",
    UP: "up factor (lora_up or lora_B)",
}


@dataclass(frozen=True)
class LayerLayout:
    """One layer as the file spells it.

    Attributes:
        key: which layer of the base it belongs to.
        stem: the layer as the file spells it, for messages.
        tensors: leaf -> tensor name.
        rank: r.
        weight_shape: shape of the base weight that the factors imply: `[out, in]` or
            `[out, in, kh, kw]`.
        stated_alpha: alpha where a configuration tells it.
        magnitude_axis: which axis of the weight DoRA's magnitude runs along; None for LoRA.
        base_shape: shape of the base weight where the base is known. Differs from `weight_shape`
            at most by trailing 1 x 1, as linear layers and 1 x 1 convolutions are the same thing.
    """

    key: LayerKey
    stem: str
    tensors: Mapping[Leaf, str]
    rank: int
    weight_shape: Shape
    stated_alpha: float | None = None
    magnitude_axis: Axis | None = None
    base_shape: Shape | None = None

    @property
    def states_alpha(self) -> bool:
        return self.stated_alpha is not None or ALPHA in self.tensors


def lay_out(
    source: str | Path,
    shapes: Mapping[str, Shape],
    spelling: Spelling,
    base_shapes: Mapping[LayerKey, Shape] | None = None,
) -> tuple[LayerLayout, ...]:
    """Group tensors into layers; each tensor is accounted for or the file is refused.

    Args:
        source: file name for messages.
        shapes: tensor name -> shape.
        spelling: what the names mean.
        base_shapes: weight shape of each layer of the base, to refuse what does not fit it.

    Raises:
        AdapterFileError: a layer is incomplete or told twice, its factors don't match each other
            or the base, or their product is absurdly large.
    """
    grouped: dict[LayerKey, dict[Leaf, str]] = {}
    for name, place in spelling.tensors.items():
        leaves = grouped.setdefault(place.key, {})
        if place.leaf in leaves:
            refuse(
                source,
                f"the tensors '{leaves[place.leaf]}' and '{name}' are the same part of one layer",
                "It was put together wrongly; export it again with the tool that made it.",
            )
        leaves[place.leaf] = name
    if not grouped:
        refuse(source, "it holds no tensors of a LoRA", "Give a LoRA file.")
    return tuple(
        _layer(source, shapes, key, leaves, spelling, base_shapes)
        for key, leaves in grouped.items()
    )


def check_header(header: Header) -> None:
    """Refuse what no LoRA needs: integer factors, or more bytes than the largest one has.

    Raises:
        AdapterFileError
    """
    if header.file_bytes > MAX_ADAPTER_BYTES:
        refuse(header.path, f"it has {header.file_bytes} bytes, more than any LoRA")
    for name, entry in header.tensors.items():
        if not entry.dtype.startswith(("F", "BF")) and not name.endswith(".alpha"):
            refuse(
                header.path,
                f"tensor '{name}' holds {entry.dtype}, not floating-point numbers",
                "Quantised adapters aren't supported.",
            )


def checked_alpha(source: str | Path, stem: str, alpha: float, rank: int) -> float:
    """`alpha` if it can be meant.

    Raises:
        AdapterFileError: it is zero, negative, not finite, or over `MAX_SCALE` times the rank.
    """
    if not math.isfinite(alpha) or not 0 < alpha <= MAX_SCALE * rank:
        refuse(
            source,
            f"the alpha of '{stem}' is {alpha:g} at rank {rank}",
            "It must be above 0 and no absurd multiple of the rank.",
        )
    return alpha


def missing_alpha_notes(layers: tuple[LayerLayout, ...]) -> tuple[str, ...]:
    """A note for the reader if some layers do not state their alpha."""
    missing = sum(not layer.states_alpha for layer in layers)
    if not missing:
        return ()
    return (f"{missing} of {len(layers)} layers state no alpha; it counts as their rank there.",)


def _layer(
    source: str | Path,
    shapes: Mapping[str, Shape],
    key: LayerKey,
    leaves: Mapping[Leaf, str],
    spelling: Spelling,
    base_shapes: Mapping[LayerKey, Shape] | None,
) -> LayerLayout:
    stem = spelling.tensors[next(iter(leaves.values()))].stem
    for leaf, word in _LEAF_WORDS.items():
        if leaf not in leaves:
            refuse(source, f"the layer '{stem}' has no {word}", "The file is incomplete.")
    down, up = shapes[leaves[DOWN]], shapes[leaves[UP]]
    rank = down[0] if down else 0
    if len(down) not in (2, 4) or len(up) != len(down) or up[2:] != (1,) * (len(up) - 2):
        refuse(
            source, f"the factors of '{stem}' have shapes {list(down)} and {list(up)}, not LoRA's"
        )
    if up[1] != rank:
        refuse(source, f"the factors of '{stem}' disagree about the rank: {rank} and {up[1]}")
    if 0 in (*down, *up):
        refuse(source, f"the factors of '{stem}' are empty")
    if ALPHA in leaves and math.prod(shapes[leaves[ALPHA]]) != 1:
        refuse(source, f"the alpha of '{stem}' is not one number")
    if MID in leaves:
        down = _with_core(source, stem, down, shapes[leaves[MID]])
    weight_shape = (up[0], *down[1:])
    axis = None
    if MAGNITUDE in leaves:
        axis = _magnitude_axis(
            source, stem, shapes[leaves[MAGNITUDE]], weight_shape, spelling.peft_magnitudes
        )
    base_shape = None
    if base_shapes is not None:
        base_shape = _fitting(source, key, weight_shape, base_shapes)
    largest = max(math.prod(s) for s in (weight_shape, down, up))
    if largest > MAX_LAYER_ELEMENTS:
        refuse(
            source,
            f"the layer '{stem}' would need {largest:.2g} numbers, more than any layer of a "
            "Stable Diffusion model",
            "It is broken or made to exhaust memory.",
        )
    return LayerLayout(
        key, stem, leaves, rank, weight_shape, spelling.alphas.get(key), axis, base_shape
    )


def _with_core(source: str | Path, stem: str, down: Shape, core: Shape) -> Shape:
    """Shape of the down factor with Tucker's core multiplied in."""
    rank = down[0]
    if len(core) != 4 or core[:2] != (rank, rank) or down[2:] != (1, 1):
        refuse(
            source,
            f"the factors of '{stem}' have shapes {list(down)} and, in the middle, {list(core)}, "
            "which is not Tucker's form",
        )
    if math.prod(core) > MAX_LAYER_ELEMENTS:
        refuse(source, f"the middle factor of '{stem}' has {math.prod(core):.2g} numbers")
    return (rank, down[1], *core[2:])


def _magnitude_axis(
    source: str | Path, stem: str, shape: Shape, weight_shape: Shape, is_peft: bool
) -> Axis:
    """Which axis a magnitude of this shape runs along; see the head of this file."""
    outputs, inputs, *kernel = weight_shape
    ones = (1,) * len(kernel)
    if is_peft:
        fits = {"out": shape == ((1, outputs, *ones) if kernel else (outputs,))}
    else:
        fits = {"in": shape == (1, inputs, *ones), "out": shape == (outputs, 1, *ones)}
    axes: list[Axis] = [axis for axis in ("in", "out") if fits.get(axis)]
    if len(axes) != 1:
        what = "neither axis" if not axes else "either axis"
        refuse(
            source,
            f"the DoRA magnitude of '{stem}' has the shape {list(shape)}, which fits {what} of a "
            f"weight of shape {list(weight_shape)}",
        )
    return axes[0]


def _fitting(
    source: str | Path, key: LayerKey, shape: Shape, base_shapes: Mapping[LayerKey, Shape]
) -> Shape:
    base_shape = base_shapes.get(key)
    if base_shape is None:
        refuse(source, f"the base has no layer '{key}'", "The LoRA is made for another base.")
    base_shape = tuple(base_shape)
    if _without_unit_kernel(shape) != _without_unit_kernel(base_shape):
        refuse(
            source,
            f"'{key}' is made for a weight of shape {list(shape)}, and the base has "
            f"{list(base_shape)} there",
            "The LoRA is made for another base.",
        )
    return base_shape


def _without_unit_kernel(shape: Shape) -> Shape:
    return shape[:2] if shape[2:] == (1, 1) else shape
