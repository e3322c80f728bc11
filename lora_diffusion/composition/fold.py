"""Folding: one adapter file out of many, with the error of each layer against the exact sum.

| layer | method `exact` | other methods, or with a rank or an error asked for |
| --- | --- | --- |
| only LoRA and LoCon | ranks side by side, exact | |
| with DoRA, LoHa, LoKr or whole weights | a dense `diff`, exact | |
| any | | the method's sum, by SVD to that rank or error, else dense |

A weight w counts once, in B alone: B = [w_1 s_1 B_1, w_2 s_2 B_2, …], A = [A_1; A_2; …], so that
B A = sum w_i s_i B_i A_i without cross terms. Layers are read, summed and written one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from lora_diffusion.composition import methods
from lora_diffusion.composition.cut import Limit, cut_dense, cut_factors
from lora_diffusion.composition.terms import (
    Ingredient,
    Term,
    changed_layers,
    exact_sum,
    open_ingredients,
    relative_error,
    terms_of,
)
from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError, printable
from lora_diffusion.factors import Factors, FullFactors, LoRAFactors
from lora_diffusion.families.stored import StoredBase, open_stored
from lora_diffusion.formats.encoding import fold_alpha
from lora_diffusion.formats.streaming import AdapterStream
from lora_diffusion.keys import LayerKey

Method = Literal["exact", "svd", "ties", "dare", "prune", "orthogonal"]
METHODS: tuple[Method, ...] = get_args(Method)
# Share of entries that is kept, where none is given: TIES' own (section 4.1), and half.
DENSITIES = {"ties": 0.2, "dare": 0.5, "prune": 0.5}
MERGED_FROM = "modelspec.merged_from"
# What files say of their base, kept where all that say it agree.
OF_THE_BASE = (
    "modelspec.architecture",
    "modelspec.implementation",
    "modelspec.prediction_type",
    "modelspec.resolution",
    "ss_base_model_version",
    "ss_new_sd_model_hash",
    "ss_sd_model_name",
    "ss_v2",
    "ss_zero_terminal_snr",
)

OnLayer = Callable[[int, int], None]


@dataclass(frozen=True)
class FoldSettings:
    """How to fold.

    Attributes:
        method: see `methods`; `svd` is the sum, cut down to `rank` or `error`.
        limit: how far the ranks of a layer are cut.
        density: share of entries that ties, dare and prune keep, in (0, 1].
        seed: of dare's masks.
        dtype: of the file, one of `formats.DTYPES`.

    Raises:
        InputError: settings that contradict each other or can't be meant.
    """

    method: Method = "exact"
    limit: Limit = field(default_factory=Limit)
    density: float | None = None
    seed: int = 0
    dtype: str = "fp16"

    def __post_init__(self) -> None:
        if self.method == "exact" and self.limit.cuts:
            raise InputError("method exact cuts no ranks. Use method svd with a rank or an error.")
        if self.method == "svd" and not self.limit.cuts:
            raise InputError("method svd needs a rank or an error to cut down to.")
        if self.density is not None and self.method not in DENSITIES:
            raise InputError(f"method {self.method} has no density; {', '.join(DENSITIES)} have.")
        if self.density is not None and not 0 < self.density <= 1:
            raise InputError(f"density is {self.density:g}; it must lie above 0, up to 1.")


@dataclass(frozen=True)
class FoldedLayer:
    """What became of one layer.

    Attributes:
        key: the layer.
        kind: `lora` or `full` (a dense `diff`).
        rank: of a LoRA layer; of a dense one its smaller side.
        error: Frobenius norm of (what the file says - exact sum) over the exact sum's.
        error_before_rounding: the same before the numbers are rounded to the file's dtype.
    """

    key: LayerKey
    kind: str
    rank: int
    error: float
    error_before_rounding: float


def fold(
    files: Iterable[tuple[Path, Weights]],
    out: Path,
    settings: FoldSettings,
    *,
    base: str | Path | None = None,
    on_layer: OnLayer | None = None,
) -> list[FoldedLayer]:
    """Write one adapter file out of many, in kohya's format.

    Args:
        base: the base model, which DoRA's update is a function of.
        on_layer: called with (layers done, of all).

    Raises:
        InputError: a file that can't be used, DoRA without a base, `out` is one of the files, or a
            sum that the dtype can't hold; nothing is written then.
        OSError: the disk is full or not writable; likewise.
    """
    given = [(Path(path).expanduser(), weights) for path, weights in files]
    if not given:
        raise InputError("There is nothing to fold. Give at least one adapter.")
    check_out(out, [path for path, _ in given])
    stored = open_stored(base) if base is not None else None
    ingredients = open_ingredients(given, stored.shapes() if stored else None)
    keys = changed_layers(ingredients)
    done: list[FoldedLayer] = []
    with closing(AdapterStream(out.parent, ingredients[0].adapter.arch, settings.dtype)) as stream:
        for key in keys:
            done.append(_fold_layer(key, ingredients, stored, settings, stream))
            if on_layer is not None:
                on_layer(len(done), len(keys))
        stream.save(out, merged_metadata(ingredients, settings.method))
    return done


def check_out(out: Path, inputs: Sequence[Path]) -> None:
    """Raise `InputError` if `out` would overwrite an input, or no program would find it."""
    if out.suffix.lower() != ".safetensors" or out.is_dir():
        raise InputError(f"{printable(out.name)}: give a file name that ends in .safetensors.")
    if out.resolve() in [path.resolve() for path in inputs]:
        raise InputError(
            f"{printable(out.name)}: is one of the files that go in. Give another name to write to."
        )


def merged_metadata(ingredients: Sequence[Ingredient], method: str) -> dict[str, str]:
    """What the header says of where a sum came from, of its base, and of all triggers."""
    told = "; ".join(f"{each.name} ({each.weights})" for each in ingredients)
    metadata = {
        MERGED_FROM: ", ".join(each.name for each in ingredients),
        "ss_training_comment": f"folded by {method}: {told}",
    }
    for key in OF_THE_BASE:
        said = {each.adapter.metadata[key] for each in ingredients if key in each.adapter.metadata}
        if len(said) == 1:
            metadata[key] = said.pop()
    phrases = [each.adapter.metadata.get("modelspec.trigger_phrase", "") for each in ingredients]
    triggers = dict.fromkeys(word for phrase in phrases for word in phrase.split(", ") if word)
    if triggers:
        metadata["modelspec.trigger_phrase"] = ", ".join(triggers)
    return metadata


def _fold_layer(
    key: LayerKey,
    ingredients: Sequence[Ingredient],
    base: StoredBase | None,
    settings: FoldSettings,
    stream: AdapterStream,
) -> FoldedLayer:
    terms = terms_of(ingredients, key)
    own = base.weight(key) if base and any(t.factors.kind == "dora" for t in terms) else None
    try:
        exact = exact_sum(terms, own)
    except InputError as error:
        name = next(term.name for term in terms if term.factors.kind == "dora")
        raise InputError(f"{printable(name)}: {error}") from None
    folded = _combined(key, terms, exact, own, settings)
    before = relative_error(folded.delta(), exact)
    rounded = stream.add(key, folded)
    return FoldedLayer(
        key, folded.kind, folded.rank, relative_error(rounded.delta(), exact), before
    )


def _combined(
    key: LayerKey, terms: Sequence[Term], exact: Tensor, own: Tensor | None, settings: FoldSettings
) -> LoRAFactors | FullFactors:
    if settings.method in DENSITIES:
        return _limited(_sparse_sum(key, terms, own, settings), settings.limit)
    if settings.method == "orthogonal":
        shares = methods.orthogonal_factors([term.delta(own) for term in terms])
        scaled = [replace(t, weight=t.weight * c) for t, c in zip(terms, shares, strict=True)]
        terms = [term for term in scaled if term.weight != 0] or terms
        exact = exact_sum(terms, own)
    joined = side_by_side(key, terms)
    if joined is None:
        return _limited(exact, settings.limit)
    return cut_factors(joined, settings.limit) if settings.limit.cuts else joined


def _sparse_sum(
    key: LayerKey, terms: Sequence[Term], own: Tensor | None, settings: FoldSettings
) -> Tensor:
    updates = [term.delta(own) for term in terms]
    density = settings.density or DENSITIES[settings.method]
    if settings.method == "ties":
        return methods.ties(updates, density)
    if settings.method == "prune":
        return methods.pruned(updates, density)
    labels = [f"{key}/{term.name}/{index}" for index, term in enumerate(terms)]
    return methods.dare(updates, density, labels, settings.seed)


def _limited(update: Tensor, limit: Limit) -> LoRAFactors | FullFactors:
    return cut_dense(update, limit) if limit.cuts else FullFactors(update)


def side_by_side(key: LayerKey, terms: Sequence[Term]) -> LoRAFactors | None:
    """The exact sum of LoRA terms as one LoRA of all their ranks; None if one is no LoRA."""
    plain: list[LoRAFactors] = []
    for term in terms:
        factors: Factors = term.factors
        if type(factors) is not LoRAFactors:
            return None
        scaled = fold_alpha(key, replace(factors, alpha=factors.alpha * abs(term.weight)))
        plain.append(scaled if term.weight > 0 else replace(scaled, up=-scaled.up))
    down = torch.cat([factors.down.float() for factors in plain])  # [sum r, in, *k]
    up = torch.cat([factors.up.float() for factors in plain], dim=1)  # [out, sum r, *1]
    return LoRAFactors(down, up, float(len(down)))


def max_error(layers: Iterable[FoldedLayer]) -> float:
    """The largest error of any layer; 0 of none."""
    return max((layer.error for layer in layers), default=0.0)
