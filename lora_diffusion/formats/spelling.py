"""What the tensor names of a file mean: the common form that every dialect is read into. No torch.

Each dialect's module has a function that turns names into a `Spelling`; `layout` then checks shapes
and `decoding` takes the numbers, alike for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from lora_diffusion.errors import listed
from lora_diffusion.formats.arch import Evidence
from lora_diffusion.formats.header import refuse
from lora_diffusion.keys import LayerKey

Leaf = Literal[
    "down", "mid", "up", "alpha", "magnitude", "diff",
    "hada_w1_a", "hada_w1_b", "hada_t1", "hada_w2_a", "hada_w2_b", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
]  # fmt: skip
DOWN: Final = "down"
MID: Final = "mid"  # Tucker's core, between the two
UP: Final = "up"
ALPHA: Final = "alpha"
MAGNITUDE: Final = "magnitude"
DIFF: Final = "diff"
# LyCORIS' own names, of LoHa and LoKr; t1 and t2 are Tucker's cores.
LYCORIS_LEAVES: Final[tuple[Leaf, ...]] = (
    "hada_w1_a", "hada_w1_b", "hada_t1", "hada_w2_a", "hada_w2_b", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
)  # fmt: skip
CORES: Final[frozenset[Leaf]] = frozenset({MID, "hada_t1", "hada_t2", "lokr_t2"})

_EMBEDDING = re.compile(r"bundle_emb\..+|<[^>]+>")


@dataclass(frozen=True)
class Named:
    """One tensor's place.

    Attributes:
        key: the layer.
        leaf: what it is of that layer.
        stem: the layer as the file spells it, for messages.
    """

    key: LayerKey
    leaf: Leaf
    stem: str


@dataclass(frozen=True)
class Spelling:
    """What all tensor names of a file mean.

    Attributes:
        tensors: name -> place, of every tensor that belongs to a layer.
        alphas: alpha of layers that tell it elsewhere than in a tensor (a configuration).
        unstated_alpha_is_odd: whether the dialect states alpha, so that a missing one is worth a
            note. In the others it is the rank by definition.
        peft_magnitudes: whether DoRA's magnitudes have PEFT's shapes instead of `dora_scale`'s.
        embeddings: tensors of textual-inversion embeddings that travel in the file.
        evidence: what the names tell about the architecture.
        notes: one sentence for each thing that had to be assumed.
    """

    tensors: Mapping[str, Named]
    alphas: Mapping[LayerKey, float] = field(default_factory=dict)
    unstated_alpha_is_odd: bool = False
    peft_magnitudes: bool = False
    embeddings: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()


def split_embeddings(names: Iterable[str]) -> tuple[list[str], tuple[str, ...]]:
    """Names of layers' tensors, and those of embeddings (A1111's `bundle_emb.NAME.…`, `<s1>`)."""
    layers: list[str] = []
    embeddings: list[str] = []
    for name in names:
        (embeddings if _EMBEDDING.fullmatch(name) else layers).append(name)
    return layers, tuple(embeddings)


def refuse_unknown(source: str | Path, unknown: Iterable[str], why: str, fix: str) -> None:
    """Refuse the file if there is any name in `unknown`, showing the first few.

    Args:
        why: how the sentence goes on after "the tensors 'x', 'y' and 3 more", for any number.

    Raises:
        AdapterFileError
    """
    names = list(unknown)
    if not names:
        return
    what = "tensor" if len(names) == 1 else "tensors"
    refuse(source, f"the {what} {listed(names)} {why}", fix)
