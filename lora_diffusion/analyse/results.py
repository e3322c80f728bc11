"""What an analysis found, as JSON and back. No torch: the studio reads these files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lora_diffusion.analyse.places import place_of
from lora_diffusion.errors import InputError, printable
from lora_diffusion.keys import LayerKey

VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Layer:
    """One layer's update.

    Attributes:
        part, path: its `LayerKey`.
        shape: of the base's weight.
        rank: r as stored.
        norm: Frobenius norm of the update at the adapter's weights.
        share: norm / |W0|; None without a base.
        effective_rank: see `svd.effective_rank`.
        values: singular values at weight 1, the strongest `VALUES_KEPT`.
    """

    part: str
    path: str
    shape: tuple[int, ...]
    rank: int
    norm: float
    share: float | None
    effective_rank: float
    values: tuple[float, ...]

    @property
    def key(self) -> LayerKey:
        return LayerKey(self.part, self.path)

    @property
    def block(self) -> str:
        return place_of(self.key).block


@dataclass(frozen=True)
class Adapter:
    """One adapter.

    Attributes:
        file, name: as given; the name is the file's stem, made unique.
        kind, arch: of it.
        weights: at which it was analysed, as `composition.weights` writes them.
        layers: in the file's order.
        notes: what was assumed.
    """

    file: str
    name: str
    kind: str
    arch: str
    weights: str
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()

    @property
    def norm(self) -> float:
        """Frobenius norm of all updates together."""
        return math.hypot(*(layer.norm for layer in self.layers))

    def block_shares(self) -> dict[str, float]:
        """Block -> share of the adapter's squared norm, which sum to 1."""
        whole = self.norm**2 or 1.0
        return {
            block: sum(layer.norm**2 for layer in layers) / whole
            for block, layers in grouped(self.layers, lambda layer: layer.block).items()
        }


@dataclass(frozen=True)
class MetLayer:
    """How two adapters meet in one layer; see `subspace.Meeting`.

    Attributes:
        part, path: its `LayerKey`.
        overlap, chance, reads, writes, cosine: as in `Meeting`.
        strength: product of both norms, at their weights.
        share_of_first: the first's part of both squared norms, 0 to 1.
    """

    part: str
    path: str
    overlap: float
    chance: float
    reads: float
    writes: float
    cosine: float
    strength: float
    share_of_first: float

    @property
    def key(self) -> LayerKey:
        return LayerKey(self.part, self.path)

    @property
    def block(self) -> str:
        return place_of(self.key).block

    @property
    def excess(self) -> float:
        """The overlap above chance, as a share of what is left above it."""
        if self.chance >= 1:
            return 0.0
        return max(0.0, (self.overlap - self.chance) / (1 - self.chance))


@dataclass(frozen=True)
class MetBlock:
    """How two adapters meet in one block.

    Attributes:
        block: its name, which weights per block take.
        overlap, chance: means over its layers, weighed by strength.
        interference: the block's share of all interference, 0 to 1; interference is the overlap
            above chance times the product of both norms.
        of_first, of_second: the share of each adapter's squared norm that is in this block.
    """

    block: str
    overlap: float
    chance: float
    interference: float
    of_first: float
    of_second: float


@dataclass(frozen=True)
class Pair:
    """How two adapters meet.

    Attributes:
        first, second: their names.
        overlap, chance: over all layers, weighed by strength.
        layers: those that both have.
        blocks: the most interference first.
        advice: sentences for people.
    """

    first: str
    second: str
    overlap: float
    chance: float
    layers: tuple[MetLayer, ...]
    blocks: tuple[MetBlock, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Subspaces:
    """phi(i, j) of two adapters, `[p][q]`, a mean over layers; see `subspace.similarity`.

    Attributes:
        first, second: their names.
        of: `A` compares the down factors, as the paper does; `update` the updates' right
            singular vectors.
        layers: over how many layers.
        phi: rows i = 1 …, columns j = 1 ….
        chance: what random subspaces would give, likewise.
    """

    first: str
    second: str
    of: str
    layers: int
    phi: tuple[tuple[float, ...], ...]
    chance: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Amplified:
    """One layer's row of the LoRA paper's table 7.

    Attributes:
        rank: how many directions r are looked at.
        update_norm: |D|_F of the update's strongest r directions.
        base_norm: |W0|_F.
        base_in_update: |U^T W0 V|_F in the update's own directions: what of it is in the base.
        base_in_own: the same in the base's strongest r directions.
        base_in_random: the same in random ones.
        factor: update_norm / base_in_update.
    """

    adapter: str
    part: str
    path: str
    rank: int
    update_norm: float
    base_norm: float
    base_in_update: float
    base_in_own: float
    base_in_random: float
    factor: float

    @property
    def block(self) -> str:
        return place_of(LayerKey(self.part, self.path)).block


@dataclass(frozen=True)
class Analysis:
    """All that an analysis found."""

    adapters: tuple[Adapter, ...]
    pairs: tuple[Pair, ...] = ()
    subspaces: tuple[Subspaces, ...] = ()
    amplification: tuple[Amplified, ...] = ()
    base: str | None = None
    version: int = VERSION

    def as_json(self) -> dict[str, Any]:
        """The fixed surface of `--json`."""
        told = asdict(self)
        for adapter, shown in zip(self.adapters, told["adapters"], strict=True):
            shown["norm"], shown["blocks"] = adapter.norm, adapter.block_shares()
        return told


def read(path: Path) -> Analysis:
    """An analysis as `lora-diffusion analyse --out` wrote it.

    Raises:
        InputError: missing, or not one.
    """
    try:
        return _ADAPTER.validate_python(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise InputError(
            f"{printable(path.name)}: is not an analysis ({printable(error)}). Run "
            "'lora-diffusion analyse' again."
        ) from None


_ADAPTER: TypeAdapter[Analysis] = TypeAdapter(Analysis)


def grouped(items: Iterable[T], name: Callable[[T], str]) -> dict[str, list[T]]:
    """Name -> the items that have it, in order."""
    found: dict[str, list[T]] = {}
    for item in items:
        found.setdefault(name(item), []).append(item)
    return found


def blocks_of(
    layers: Sequence[MetLayer], of_first: Mapping[str, float], of_second: Mapping[str, float]
) -> tuple[MetBlock, ...]:
    """The blocks of `layers`, the most interference first."""
    total = sum(layer.excess * layer.strength for layer in layers)
    found = []
    for block, inside in grouped(layers, lambda layer: layer.block).items():
        strength = sum(layer.strength for layer in inside) or 1.0
        interference = sum(layer.excess * layer.strength for layer in inside)
        found.append(
            MetBlock(
                block=block,
                overlap=sum(layer.overlap * layer.strength for layer in inside) / strength,
                chance=sum(layer.chance * layer.strength for layer in inside) / strength,
                interference=interference / total if total else 0.0,
                of_first=of_first.get(block, 0.0),
                of_second=of_second.get(block, 0.0),
            )
        )
    return tuple(sorted(found, key=lambda each: -each.interference))
