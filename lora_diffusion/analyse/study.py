"""Look at adapters layer by layer: each by itself, and every two of them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.analyse import results
from lora_diffusion.analyse.amplification import amplify
from lora_diffusion.analyse.results import Analysis, MetLayer, Pair, Subspaces
from lora_diffusion.analyse.subspace import meet, orthonormal_rows, similarity
from lora_diffusion.analyse.svd import Directions, directions, effective_rank
from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError, printable
from lora_diffusion.factors import DoRAFactors, Factors, LoRAFactors
from lora_diffusion.formats.dialect import kind_of
from lora_diffusion.keys import LayerKey
from lora_diffusion.targets import matches

VALUES_KEPT = 64
PHI_SIDE = 64
_AT_CHANCE = 0.03  # overlap above chance that is not worth a word
_MOST_BLOCKS = 3

OnLayer = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Given:
    """An adapter to look at: its file, what is in it, and its weights."""

    path: Path
    file: AdapterFile
    weights: Weights = field(default_factory=Weights)


def analyse(
    given: Sequence[Given],
    *,
    base_weights: Mapping[LayerKey, Tensor] | None = None,
    base_name: str | None = None,
    layers: str = "*",
    on_layer: OnLayer = lambda done, total: None,
) -> Analysis:
    """Norms, spectra, overlaps, phi and, with a base, amplification.

    Args:
        base_weights: W0 of every layer of the base.
        layers: a pattern, as `targets.matches` takes it: only these layers.

    Raises:
        InputError: no layer fits the pattern, adapters of different architectures or shapes, or a
            base that lacks layers.
    """
    keys = sorted({key for one in given for key in one.file.layers if matches(layers, key)})
    if not keys:
        raise InputError(f"--layers {printable(layers)}: no layer of these adapters fits it.")
    if len({one.file.arch for one in given}) > 1:
        archs = ", ".join(f"{printable(one.path.name)} {one.file.arch}" for one in given)
        raise InputError(
            f"These adapters are for different bases: {archs}. Compare like with like."
        )
    names = _unique_names([one.path for one in given])
    found: list[list[results.Layer]] = [[] for _ in given]
    amplified: list[results.Amplified] = []
    met: dict[tuple[int, int], list[MetLayer]] = {pair: [] for pair in _pairs(given)}
    phi = {(pair, of): _Mean() for pair in met for of in ("A", "update")}
    for done, key in enumerate(keys):
        weight = _base_weight(base_weights, key)
        here: dict[int, tuple[Factors, Directions]] = {}
        for index, one in enumerate(given):
            factors = one.file.layers.get(key)
            if factors is None:
                continue
            _check_shape(one, key, factors, weight, here)
            update = directions(factors, weight)
            here[index] = factors, update
            found[index].append(_layer(key, factors, update, weight, one.weights.of(key)))
            if weight is not None and len(update.values):
                amplified.append(amplify(names[index], key, update, weight, factors.rank))
        for first, second in combinations(sorted(here), 2):
            weights = given[first].weights.of(key), given[second].weights.of(key)
            met[first, second].append(_meet(key, here[first][1], here[second][1], weights))
            phi[(first, second), "update"].add(
                here[first][1].right[:PHI_SIDE], here[second][1].right[:PHI_SIDE]
            )
            downs = [here[index][0] for index in (first, second)]
            if all(isinstance(factors, LoRAFactors) for factors in downs):
                rows = [orthonormal_rows(f.down)[:PHI_SIDE] for f in downs]  # type: ignore[attr-defined]
                phi[(first, second), "A"].add(*rows)
        on_layer(done + 1, len(keys))
    adapters = tuple(
        results.Adapter(
            file=printable(one.path, 4_096),
            name=name,
            kind=kind_of((f.kind, f.weight_shape) for f in one.file.layers.values()),
            arch=one.file.arch,
            weights=str(one.weights),
            layers=tuple(own),
            notes=_notes(one.file, base_weights is not None),
        )
        for one, name, own in zip(given, names, found, strict=True)
    )
    return Analysis(
        adapters=adapters,
        pairs=tuple(
            _pair(adapters[first], adapters[second], layers_met)
            for (first, second), layers_met in met.items()
            if layers_met
        ),
        subspaces=tuple(
            mean.told(names[first], names[second], of)
            for ((first, second), of), mean in phi.items()
            if mean.count
        ),
        amplification=tuple(amplified),
        base=base_name,
    )


class _Mean:
    """phi over layers; a layer with fewer directions counts where it has them."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = torch.zeros(PHI_SIDE, PHI_SIDE, dtype=torch.float64)
        self._chance = torch.zeros_like(self._sum)
        self._seen = torch.zeros_like(self._sum)

    def add(self, first: Tensor, second: Tensor) -> None:
        """first, second: `[p, n]` and `[q, n]`, orthonormal rows."""
        if not (len(first) and len(second)):
            return
        phi = similarity(first, second)
        rows, columns = phi.shape
        i = torch.arange(1, rows + 1)[:, None]
        j = torch.arange(1, columns + 1)[None, :]
        self._sum[:rows, :columns] += phi
        self._chance[:rows, :columns] += torch.maximum(i, j) / first.shape[1]
        self._seen[:rows, :columns] += 1
        self.count += 1

    def told(self, first: str, second: str, of: str) -> Subspaces:
        rows, columns = int((self._seen[:, 0] > 0).sum()), int((self._seen[0] > 0).sum())
        seen = self._seen[:rows, :columns].clamp_min(1)
        return Subspaces(
            first, second, of, self.count,
            _table(self._sum[:rows, :columns] / seen),
            _table(self._chance[:rows, :columns] / seen),
        )  # fmt: skip


def _table(values: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(value, 5) for value in row) for row in values.tolist())


def _pairs(given: Sequence[Given]) -> list[tuple[int, int]]:
    return list(combinations(range(len(given)), 2))


def _layer(
    key: LayerKey, factors: Factors, update: Directions, weight: Tensor | None, strength: float
) -> results.Layer:
    norm = abs(strength) * update.norm
    return results.Layer(
        part=key.part,
        path=key.path,
        shape=factors.weight_shape,
        rank=factors.rank,
        norm=norm,
        share=None if weight is None else norm / float(weight.double().norm()),
        effective_rank=effective_rank(update.values),
        values=tuple(update.values[:VALUES_KEPT].tolist()),
    )


def _meet(
    key: LayerKey, first: Directions, second: Directions, weights: tuple[float, float]
) -> MetLayer:
    meeting = meet(first, second)
    one, two = abs(weights[0]) * first.norm, abs(weights[1]) * second.norm
    sign = 1 if weights[0] * weights[1] >= 0 else -1
    return MetLayer(
        part=key.part,
        path=key.path,
        overlap=meeting.overlap,
        chance=meeting.chance,
        reads=meeting.reads,
        writes=meeting.writes,
        cosine=sign * meeting.cosine,
        strength=one * two,
        share_of_first=one**2 / (one**2 + two**2) if one or two else 0.5,
    )


def _pair(first: results.Adapter, second: results.Adapter, layers: Sequence[MetLayer]) -> Pair:
    blocks = results.blocks_of(layers, first.block_shares(), second.block_shares())
    strength = sum(layer.strength for layer in layers) or 1.0
    overlap = sum(layer.overlap * layer.strength for layer in layers) / strength
    chance = sum(layer.chance * layer.strength for layer in layers) / strength
    return Pair(
        first=first.name,
        second=second.name,
        overlap=overlap,
        chance=chance,
        layers=tuple(layers),
        blocks=blocks,
        advice=_advice(first.name, second.name, overlap - chance, blocks),
    )


def _advice(
    first: str, second: str, above_chance: float, blocks: Sequence[results.MetBlock]
) -> tuple[str, ...]:
    """Which blocks to turn down: where most interference is, the one that loses less by it."""
    if above_chance < _AT_CHANCE:
        return (
            f"{first} and {second} hardly meet: they overlap no more than random adapters would.",
        )
    told = []
    for block in blocks[:_MOST_BLOCKS]:
        if block.interference < 1 / len(blocks):
            break
        loser, kept, other, own = second, block.of_second, first, block.of_first
        if block.of_first < block.of_second:
            loser, kept, other, own = first, block.of_first, second, block.of_second
        told.append(
            f"Turn down {loser} in {block.block}: {block.interference:.0%} of the interference is "
            f"there, and {kept:.0%} of {loser}'s strength ({other}: {own:.0%})."
        )
    return tuple(told)


def _notes(file: AdapterFile, has_base: bool) -> tuple[str, ...]:
    if not has_base and any(isinstance(f, DoRAFactors) for f in file.layers.values()):
        return ("DoRA without a base: only its low-rank part is told. Name the base.",)
    return ()


def _base_weight(weights: Mapping[LayerKey, Tensor] | None, key: LayerKey) -> Tensor | None:
    if weights is None:
        return None
    if key not in weights:
        raise InputError(f"This base has no layer '{printable(key)}'. Give the adapters' own base.")
    return weights[key]


def _check_shape(
    one: Given,
    key: LayerKey,
    factors: Factors,
    weight: Tensor | None,
    here: Mapping[int, tuple[Factors, Directions]],
) -> None:
    shapes = [other.weight_shape for other, _ in here.values()]
    if weight is not None:
        shapes.append(tuple(weight.shape))
    for shape in shapes:
        if _flat(shape) != _flat(factors.weight_shape):
            raise InputError(
                f"{printable(one.path.name)}: its layer '{printable(key)}' is for a weight of "
                f"shape {list(factors.weight_shape)}, where another's is {list(shape)}. They are "
                "for different bases."
            )


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    size = 1
    for side in shape[1:]:
        size *= side
    return shape[0], size


def _unique_names(paths: Sequence[Path]) -> list[str]:
    names: list[str] = []
    for path in paths:
        stem, name, number = printable(path.stem), printable(path.stem), 1
        while name in names:
            number += 1
            name = f"{stem} ({number})"
        names.append(name)
    return names
