"""What an adapter file is, at a glance: `lora-diffusion inspect` and the studio. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lora_diffusion.errors import printable
from lora_diffusion.formats import hash as hashes
from lora_diffusion.formats.dialect import kind_of
from lora_diffusion.formats.header import refuse
from lora_diffusion.formats.layout import LayerLayout, checked_alpha
from lora_diffusion.formats.raw import read_number, scan_finite
from lora_diffusion.formats.reading import Opened, lay_out_opened, open_adapter, refuse_others
from lora_diffusion.formats.spelling import ALPHA
from lora_diffusion.formats.summary import Summary, summarise
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET

_K = TypeVar("_K")
_PART_PREFIXES = (
    ("lora_unet_", UNET),
    ("lora_te_", TEXT_ENCODER),
    ("lora_te1_", TEXT_ENCODER),
    ("lora_te2_", TEXT_ENCODER_2),
    ("unet.", UNET),
    ("text_encoder.", TEXT_ENCODER),
    ("text_encoder_2.", TEXT_ENCODER_2),
    ("lycoris_", UNET),
)


@dataclass(frozen=True)
class Description:
    """What was found out about one adapter file.

    Attributes:
        format: dialect: `kohya`, `diffusers`, `peft`, `lycoris`, `legacy`.
        arch: `sd15`, `sd21`, `sdxl`, or None where nothing tells.
        kind: `lora`, `locon`, `dora`, `loha`, …
        rank, alpha: the most common ones; None where the dialect isn't read yet.
        ranks, alphas: every one of them and in how many layers it occurs.
        modules: adapted layers by part.
        dtypes: number formats of the tensors and how many tensors have each.
        hashes: of the file.
        summary: what its metadata says.
        metadata: all of it; untrusted text.
        problems: one sentence each on what is doubtful.
    """

    path: Path
    format: str
    arch: str | None
    kind: str
    rank: int | None
    alpha: float | None
    ranks: Mapping[int, int]
    alphas: Mapping[float, int]
    modules: Mapping[str, int]
    dtypes: Mapping[str, int]
    hashes: hashes.FileHashes
    summary: Summary
    metadata: Mapping[str, str]
    problems: tuple[str, ...] = field(default=())


def describe(path: str | Path) -> Description:
    """Read headers, every number and the hashes of `path`, in bounded memory.

    What `load_adapter` reads is described in full. An adapter of a kind that isn't read is
    described as far as names go, with a problem saying so.

    Args:
        path: a file, or a folder as `load_adapter` takes it; its hashes are its first file's.

    Raises:
        AdapterFileError: broken, hostile, or not an adapter.
    """
    opened = open_adapter(path)
    unread = refuse_others(opened)
    try:
        for piece in opened.pieces:
            scan_finite(piece.header)
        digests = hashes.file_hashes(opened.pieces[0].header.path)
        if unread:
            return _outline(opened, digests, unread[0])
        return _in_full(opened, digests)
    except OSError as error:
        refuse(opened.path, f"it cannot be read ({printable(error)})")


def _in_full(opened: Opened, digests: hashes.FileHashes) -> Description:
    laid = lay_out_opened(opened)
    metadata = opened.metadata
    ranks = Counter(layer.rank for layer in laid.layers)
    alphas = Counter(_alphas(opened, laid.layers))
    return Description(
        path=opened.path,
        format=opened.dialect.format,
        arch=laid.arch,
        kind=kind_of((layer.kind, layer.weight_shape) for layer in laid.layers),
        rank=ranks.most_common(1)[0][0],
        alpha=alphas.most_common(1)[0][0],
        ranks=_by_size(ranks),
        alphas=_by_size(alphas),
        modules=_by_size(Counter(layer.key.part for layer in laid.layers)),
        dtypes=_dtypes(opened),
        hashes=digests,
        summary=summarise(metadata),
        metadata=metadata,
        problems=(
            *laid.notes,
            *_part_problems(opened),
            *_hash_problems(opened.pieces[0].header.metadata, digests),
        ),
    )


def _outline(opened: Opened, digests: hashes.FileHashes, reason: str) -> Description:
    """What names alone tell about an adapter that cannot be read yet."""
    metadata = opened.metadata
    summary = summarise(metadata)
    named = {"sdxl": "sdxl"}.get(opened.dialect.family)
    return Description(
        path=opened.path,
        format=opened.dialect.format,
        arch=named or summary.arch,
        kind=opened.dialect.kind,
        rank=None,
        alpha=None,
        ranks={},
        alphas={},
        modules=_by_size(_modules_by_prefix(opened.shapes())),
        dtypes=_dtypes(opened),
        hashes=digests,
        summary=summary,
        metadata=metadata,
        problems=(
            f"Not readable here: {reason}.",
            *_hash_problems(opened.pieces[0].header.metadata, digests),
        ),
    )


def _alphas(opened: Opened, layers: Iterable[LayerLayout]) -> list[float]:
    places = {label: (header, name) for label, header, name in opened.located()}
    found = []
    with ExitStack() as stack:
        files = {
            piece.header.path: stack.enter_context(piece.header.path.open("rb"))
            for piece in opened.pieces
        }
        for layer in layers:
            stated = layer.rank if layer.stated_alpha is None else layer.stated_alpha
            if layer.is_scaled and ALPHA in layer.tensors:
                header, name = places[layer.tensors[ALPHA]]
                stated = read_number(files[header.path], header, name)
            found.append(checked_alpha(opened.path, layer.stem, float(stated), layer.rank))
    return found


def _part_problems(opened: Opened) -> list[str]:
    if len(opened.pieces) == 1:
        return []
    first = opened.pieces[0]
    return [
        f"It has {len(opened.pieces)} files; the hashes are those of "
        f"{first.part}/{first.header.path.name}."
    ]


def _hash_problems(metadata: Mapping[str, str], digests: hashes.FileHashes) -> list[str]:
    """Wrong hashes make image sites link pictures to another model."""
    problems = []
    for key in ("sshs_model_hash", "modelspec.hash_sha256"):
        stated = metadata.get(key, "").lower().removeprefix("0x")
        if stated.startswith(hashes.EMPTY_SHA256[:10]):
            problems.append(f"{key} is the hash of an empty buffer, not of this file.")
        elif stated and stated not in (digests.model, digests.autov3):
            problems.append(f"{key} is not the hash of this file's tensors.")
    return problems


def _modules_by_prefix(names: Iterable[str]) -> Counter[str]:
    stems: dict[str, set[str]] = {}
    for name in names:
        part = next((p for prefix, p in _PART_PREFIXES if name.startswith(prefix)), None)
        if part:
            stem = name.split(".lora", 1)[0] if "." in name.split("_", 1)[0] else name.split(".")[0]
            stems.setdefault(part, set()).add(stem.removesuffix(".alpha"))
    return Counter({part: len(found) for part, found in stems.items()})


def _dtypes(opened: Opened) -> dict[str, int]:
    return _by_size(
        Counter(e.dtype for piece in opened.pieces for e in piece.header.tensors.values())
    )


def _by_size(counts: Counter[_K]) -> dict[_K, int]:
    return dict(counts.most_common())
