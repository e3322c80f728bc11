"""The terms of a sum of adapters, layer by layer: S = sum of w_i * delta_i(W0)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.composition.sources import check
from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError, printable
from lora_diffusion.factors import Factors
from lora_diffusion.formats.lazy import open_lazily
from lora_diffusion.keys import LayerKey
from lora_diffusion.shapes import Shape

_BLOCK = 1 << 20  # numbers


@dataclass(frozen=True, eq=False)
class Ingredient:
    """One adapter of a sum.

    Attributes:
        name: for people and metadata.
        adapter: its layers, which are read one at a time.
        weights: how strongly it counts.
    """

    name: str
    adapter: AdapterFile
    weights: Weights


@dataclass(frozen=True, eq=False)
class Term:
    """One adapter's update of one layer, to be counted `weight` times, which is not 0."""

    name: str
    weight: float
    factors: Factors

    def delta(self, base_weight: Tensor | None) -> Tensor:
        """weight * delta(W0), shaped like W0, fp32 or wider."""
        return self.factors.delta(base_weight) * self.weight


def open_ingredients(
    files: Iterable[tuple[Path, Weights]], shapes: Mapping[LayerKey, Shape] | None = None
) -> tuple[Ingredient, ...]:
    """Adapter files to be summed, in an order of their own: how they are given changes no bit.

    Args:
        shapes: weight shape of each layer of the base, if it is known.

    Raises:
        InputError: a file can't be used (see `sources.check`), weights that change with the steps,
            or files for different architectures.
    """
    found: list[Ingredient] = []
    for path, weights in files:
        name = path.name.removesuffix(".safetensors")
        if weights.steps:
            raise InputError(
                f"{printable(name)}: its weights change with the steps, which no file can say. "
                "Leave out 'steps='."
            )
        check(path, shapes)
        found.append(Ingredient(name, open_lazily(path, shapes), weights))
    for other in found[1:]:
        first = found[0]
        if other.adapter.arch != first.adapter.arch:
            raise InputError(
                f"{printable(other.name)} is for {other.adapter.arch} and {printable(first.name)} "
                f"for {first.adapter.arch}. Adapters of one base can be summed."
            )
    return tuple(sorted(found, key=lambda each: (each.name, str(each.weights))))


def changed_layers(ingredients: Sequence[Ingredient]) -> list[LayerKey]:
    """Every layer that one of them changes: it has it, at a weight that is not 0."""
    return [
        key
        for key in dict.fromkeys(key for each in ingredients for key in each.adapter.layers)
        if any(key in each.adapter.layers and each.weights.of(key) for each in ingredients)
    ]


def terms_of(ingredients: Sequence[Ingredient], key: LayerKey) -> list[Term]:
    """The terms of one layer; read now. Weights of 0 have none.

    Raises:
        InputError: two of them have the layer in different shapes.
    """
    found = []
    for each in ingredients:
        weight = each.weights.of(key)
        if weight != 0 and key in each.adapter.layers:
            found.append(Term(each.name, weight, each.adapter.layers[key]))
    for term in found[1:]:
        ours, theirs = found[0].factors.weight_shape, term.factors.weight_shape
        if ours != theirs:
            raise InputError(
                f"The layer {key} is for a weight of shape {list(ours)} in "
                f"{printable(found[0].name)} and {list(theirs)} in {printable(term.name)}: they "
                "are made for different bases."
            )
    return found


def exact_sum(terms: Sequence[Term], base_weight: Tensor | None) -> Tensor:
    """sum of w_i * delta_i(W0), fp32 or wider.

    Raises:
        InputError: a term is DoRA and there is no base weight.
    """
    total = terms[0].delta(base_weight)
    for term in terms[1:]:
        total = total + term.delta(base_weight)
    return total


def relative_error(found: Tensor, exact: Tensor, of: Tensor | None = None) -> float:
    """Frobenius norm of `found` - `exact` over that of `of` (else of `exact`); 0 over 0 is 0.

    Summed in fp64, block by block, so that no copy of a whole weight is made.
    """
    difference = whole = 0.0
    measure = exact if of is None else of
    step = max(1, _BLOCK // max(1, found[0].numel()))
    for start in range(0, len(found), step):
        rows = slice(start, start + step)
        difference += float((found[rows].double() - exact[rows].double()).square().sum())
        whole += float(measure[rows].double().square().sum())
    return math.sqrt(difference / whole if whole > 0 else difference)
