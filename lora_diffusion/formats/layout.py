"""Which tensors make which layer, by names and shapes alone. No torch.

Everything that can be refused without reading a tensor is refused here, above all factors whose
product would be enormous: under a megabyte of factors can stand for 80 GB of update. `measure` has
the shapes of each kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_diffusion.errors import AdapterFileError, listed
from lora_diffusion.formats.header import Header, refuse
from lora_diffusion.formats.layer_names import kernel_of
from lora_diffusion.formats.measure import Axis, Kind, Measured, Tensors, measure
from lora_diffusion.formats.spelling import ALPHA, Leaf, Spelling, refuse_unknown
from lora_diffusion.keys import LayerKey
from lora_diffusion.shapes import Shape, without_unit_kernel

MAX_LAYER_ELEMENTS = 1 << 27  # four times the largest layer of SDXL; 512 MiB in fp32
MAX_FACTORS_SHARE = 16  # of the weight's own numbers; so many adapters' ranks may be joined …
MIN_FACTORS_LIMIT = 1 << 20  # … and of small layers as many as that
MAX_ADAPTER_BYTES = 16 << 30
MAX_SCALE = 1_000.0  # alpha / rank
_OTHER_BASE = "The LoRA is made for another base."


@dataclass(frozen=True)
class LayerLayout:
    """One layer as the file spells it.

    Attributes:
        key: which layer of the base it belongs to.
        stem: the layer as the file spells it, for messages.
        tensors: leaf -> tensor name.
        kind: how it is factored.
        rank: r; of what isn't factored, its smaller side.
        weight_shape: shape of the base weight that the factors imply: `[out, in]` or
            `[out, in, kh, kw]`.
        is_scaled: whether alpha / rank scales the update; otherwise it is 1, as if alpha = rank.
        stated_alpha: alpha where a configuration tells it.
        magnitude_axis: which axis of the weight DoRA's magnitude runs along; None for LoRA.
        base_shape: shape of the base weight where the base is known. Differs from `weight_shape`
            at most by trailing 1 x 1, as linear layers and 1 x 1 convolutions are the same thing.
    """

    key: LayerKey
    stem: str
    tensors: Mapping[Leaf, str]
    kind: Kind
    rank: int
    weight_shape: Shape
    is_scaled: bool = True
    stated_alpha: float | None = None
    magnitude_axis: Axis | None = None
    base_shape: Shape | None = None

    @property
    def states_alpha(self) -> bool:
        return not self.is_scaled or self.stated_alpha is not None or ALPHA in self.tensors


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
            or the base, or their product is absurdly large. The message names up to five
            layers or tensors with which something is wrong.
    """
    grouped: dict[LayerKey, dict[Leaf, str]] = {}
    twice: list[str] = []
    for name, place in spelling.tensors.items():
        leaves = grouped.setdefault(place.key, {})
        if place.leaf in leaves:
            twice += [leaves[place.leaf], name]
        leaves[place.leaf] = name
    refuse_unknown(
        source,
        twice,
        "are the same part of one layer, two by two",
        "It was put together wrongly; export it again with the tool that made it.",
    )
    if not grouped:
        refuse(source, "it holds no tensors of a LoRA", "Give a LoRA file.")
    if base_shapes is not None:
        missing = [key for key in grouped if key not in base_shapes]
        if missing:
            word = "layer" if len(missing) == 1 else "layers"
            refuse(source, f"the base has no {word} {listed(missing)}", _OTHER_BASE)
    layers: list[LayerLayout] = []
    wrong: dict[str, AdapterFileError] = {}
    for key, leaves in grouped.items():
        try:
            layers.append(_layer(source, shapes, key, leaves, spelling, base_shapes))
        except AdapterFileError as error:
            wrong[str(key)] = error
    if wrong:
        first, *others = wrong
        also = f" Nor can these be used: {listed(others, shown=4)}." if others else ""
        raise AdapterFileError(f"{wrong[first]}{also}")
    _check_fit(source, tuple(layers))
    return tuple(layers)


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


def _check_fit(source: str | Path, layers: tuple[LayerLayout, ...]) -> None:
    """Refuse layers of another shape than the base's, where that is known."""
    misfits = [
        layer
        for layer in layers
        if layer.base_shape
        and without_unit_kernel(layer.weight_shape) != without_unit_kernel(layer.base_shape)
    ]
    if not misfits:
        return
    first, others = misfits[0], [layer.key for layer in misfits[1:]]
    more = f"; likewise {listed(others, shown=4)}" if others else ""
    refuse(
        source,
        f"'{first.key}' is made for a weight of shape {list(first.weight_shape)}, and the base "
        f"has {list(first.base_shape or ())} there{more}",
        _OTHER_BASE,
    )


def _layer(
    source: str | Path,
    shapes: Mapping[str, Shape],
    key: LayerKey,
    leaves: Mapping[Leaf, str],
    spelling: Spelling,
    base_shapes: Mapping[LayerKey, Shape] | None,
) -> LayerLayout:
    stem = spelling.tensors[next(iter(leaves.values()))].stem
    of_layer = {leaf: shapes[name] for leaf, name in leaves.items()}
    measured = measure(Tensors(source, stem, of_layer, spelling.peft_magnitudes))
    base_shape = None if base_shapes is None else tuple(base_shapes[key])
    weight_shape = _with_kernel(
        source, stem, measured, kernel_of(key) if base_shape is None else base_shape[2:]
    )
    inner = (measured.rank, *weight_shape[1:])  # with Tucker's core multiplied in
    largest = max(math.prod(shape) for shape in (weight_shape, inner, *of_layer.values()))
    if largest > MAX_LAYER_ELEMENTS:
        refuse(
            source,
            f"the layer '{stem}' would need {largest:.2g} numbers, more than any layer of a "
            "Stable Diffusion model",
            "It is broken or made to exhaust memory.",
        )
    numbers = sum(math.prod(shape) for shape in of_layer.values())
    if numbers > max(MIN_FACTORS_LIMIT, MAX_FACTORS_SHARE * math.prod(weight_shape)):
        refuse(
            source,
            f"the layer '{stem}' has rank {measured.rank}, which is absurd for a weight of shape "
            f"{list(weight_shape)}",
            "It is broken or made to exhaust memory.",
        )
    return LayerLayout(
        key=key,
        stem=stem,
        tensors=leaves,
        kind=measured.kind,
        rank=measured.rank,
        weight_shape=weight_shape,
        is_scaled=measured.is_scaled,
        stated_alpha=spelling.alphas.get(key),
        magnitude_axis=measured.axis,
        base_shape=base_shape,
    )


def _with_kernel(source: str | Path, stem: str, measured: Measured, kernel: Shape) -> Shape:
    """The weight's shape, with its kernel where the tensors are flat and the layer has one."""
    places = math.prod(kernel)
    if measured.columns is None or places == 1:
        return measured.weight_shape
    if measured.columns % places:
        refuse(
            source,
            f"the factors of '{stem}' have {measured.columns} columns, which is no multiple of the "
            f"layer's kernel, {kernel[0]} x {kernel[1]}",
        )
    outputs, inputs = measured.weight_shape
    return (outputs, inputs // places, *kernel)
