"""An adapter with fewer ranks, or two checkpoints' difference as an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lora_diffusion import targets
from lora_diffusion.algebra import wide
from lora_diffusion.composition.cut import Limit, cut_dense, cut_factors
from lora_diffusion.composition.fold import OF_THE_BASE, FoldedLayer, OnLayer, check_out
from lora_diffusion.composition.sources import check
from lora_diffusion.composition.terms import relative_error
from lora_diffusion.errors import InputError, printable
from lora_diffusion.factors import DoRAFactors, Factors, LoRAFactors
from lora_diffusion.families.stored import StoredBase, open_stored
from lora_diffusion.formats.lazy import open_lazily
from lora_diffusion.formats.metadata import SPEC_KEY, TrainingFacts, build_metadata
from lora_diffusion.formats.streaming import AdapterStream
from lora_diffusion.keys import UNET, LayerKey

# What a file's metadata say of its own factors, name and bytes; the new file's are filled in.
_OF_THE_OLD = ("ss_network_", "sshs_", "ss_output_name", "modelspec.title", SPEC_KEY)


def resize(
    path: Path, out: Path, limit: Limit, *, dtype: str = "fp16", on_layer: OnLayer | None = None
) -> list[FoldedLayer]:
    """Write an adapter with each layer cut to `limit`.

    Every kind comes out as LoRA, but DoRA, which keeps its magnitude while its B A is cut; its
    error is that of B A.

    Raises:
        InputError: a file that can't be used, `out` is that file, or a limit that limits nothing.
        OSError: the disk is full or not writable.
    """
    path = Path(path).expanduser()
    if not limit.cuts:
        raise InputError("Give a rank, an energy or an error to cut down to.")
    check_out(out, [path])
    check(path, None)
    adapter = open_lazily(path)
    done: list[FoldedLayer] = []
    with closing(AdapterStream(out.parent, adapter.arch, dtype)) as stream:
        for key in adapter.layers:
            factors = adapter.layers[key]
            whole: Factors = factors
            if isinstance(factors, DoRAFactors):
                whole = LoRAFactors(factors.down, factors.up, factors.alpha)
            smaller = cut_factors(whole, limit)
            magnitude = factors if isinstance(factors, DoRAFactors) else None
            done.append(_stored(key, smaller, whole.delta(), stream, magnitude))
            if on_layer is not None:
                on_layer(len(done), len(adapter.layers))
        name = path.name.removesuffix(".safetensors")
        stream.save(out, _inherited(adapter.metadata, f"resized from {name}"))
    return done


@dataclass(frozen=True)
class Extracted:
    """What `extract` wrote.

    Attributes:
        layers: those that differ and were asked for.
        left_out: those that differ and were not.
        share_left_out: of the squared norm of all differences.
    """

    layers: tuple[FoldedLayer, ...]
    left_out: tuple[LayerKey, ...]
    share_left_out: float


def extract(
    tuned: str | Path,
    base: str | Path,
    out: Path,
    limit: Limit,
    *,
    targets_: str = "all",
    text_targets: str = "all",
    dtype: str = "fp16",
    on_layer: OnLayer | None = None,
) -> Extracted:
    """Write what a fine-tuned model has learnt over its base as a LoRA.

    Args:
        targets_, text_targets: layers of the UNet and of text encoders, as `targets.select` takes
            them.

    Raises:
        InputError: a model that can't be read, two of different shapes, or without a difference.
        OSError: the disk is full or not writable.
    """
    if not limit.cuts:
        raise InputError("Give a rank, an energy or an error to cut down to.")
    ours, theirs = open_stored(tuned), open_stored(base)
    check_out(out, [ours.path, theirs.path])
    _check_alike(ours, theirs)
    wanted = {
        key
        for part in dict.fromkeys(key.part for key in theirs.places)
        for key in targets.select(targets_ if part == UNET else text_targets, part, theirs.places)
    }
    done: list[FoldedLayer] = []
    left_out: list[LayerKey] = []
    squares = {True: 0.0, False: 0.0}
    with closing(AdapterStream(out.parent, theirs.arch, dtype)) as stream:
        for number, key in enumerate(theirs.places):
            difference = wide(ours.weight(key)) - wide(theirs.weight(key))
            if difference.any():
                squares[key in wanted] += float(difference.double().square().sum())
                if key in wanted:
                    done.append(_stored(key, cut_dense(difference, limit), difference, stream))
                else:
                    left_out.append(key)
            if on_layer is not None:
                on_layer(number + 1, len(theirs.places))
        if not done:
            raise InputError(
                f"{printable(ours.path.name)} and {printable(theirs.path.name)} have the same "
                "weights in these layers, so there is nothing to extract."
            )
        comment = f"difference of {ours.path.name} and {theirs.path.name}"
        stream.save(out, _of_base(theirs) | {"ss_training_comment": printable(comment)})
    return Extracted(tuple(done), tuple(left_out), squares[False] / sum(squares.values()))


def _stored(
    key: LayerKey,
    smaller: LoRAFactors,
    exact: Tensor,
    stream: AdapterStream,
    dora: DoRAFactors | None = None,
) -> FoldedLayer:
    """Write one layer; `exact` is what it would be without cutting."""
    before = relative_error(smaller.delta(), exact)
    written = smaller
    if dora is not None:
        written = DoRAFactors(
            smaller.down, smaller.up, smaller.alpha, dora.magnitude.float(), dora.axis
        )
    told = stream.add(key, written)
    assert isinstance(told, LoRAFactors)
    found = LoRAFactors(told.down, told.up, told.alpha).delta()
    return FoldedLayer(key, written.kind, smaller.rank, relative_error(found, exact), before)


def _check_alike(ours: StoredBase, theirs: StoredBase) -> None:
    mine, other = ours.shapes(), theirs.shapes()
    different = [key for key in other if mine.get(key) != other[key]]
    if ours.arch != theirs.arch or different:
        where = f" (layer {different[0]}, for one)" if different else ""
        raise InputError(
            f"{printable(ours.path.name)} and {printable(theirs.path.name)} are not of one shape"
            f"{where}. Give the base that the model was made from."
        )


def _of_base(base: StoredBase) -> dict[str, str]:
    """What a file for this base says of it."""
    prediction = "v_prediction" if base.prediction == "v_prediction" else "epsilon"
    facts = TrainingFacts(arch=base.arch, prediction=prediction, base=base.path.name)
    told = build_metadata(facts)
    return {key: told[key] for key in OF_THE_BASE if key in told}


def _inherited(metadata: Mapping[str, str], comment: str) -> dict[str, str]:
    kept = {key: text for key, text in metadata.items() if not key.startswith(_OF_THE_OLD)}
    return kept | {"ss_training_comment": printable(comment)}
