"""What an adapter file is, at a glance: `lora-diffusion inspect` and the studio. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lora_diffusion.errors import printable
from lora_diffusion.formats import hash as hashes
from lora_diffusion.formats.dialect import Dialect, identify
from lora_diffusion.formats.header import Header, read_header, refuse
from lora_diffusion.formats.kohya_layout import (
    LayerLayout,
    check_header,
    checked_alpha,
    infer_arch,
    lay_out,
    missing_alpha_notes,
    stem_table,
)
from lora_diffusion.formats.raw import read_number, scan_finite
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
)


@dataclass(frozen=True)
class Description:
    """What was found out about one adapter file.

    Attributes:
        format: dialect: `kohya`, `diffusers`, `peft`, `lycoris`.
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
    """Read header, every number and the hashes of `path`, in bounded memory.

    A file that `load_adapter` reads is described in full. An adapter in a dialect or of a kind
    that isn't read yet is described as far as names go, with a problem saying so.

    Raises:
        AdapterFileError: broken, hostile, or not an adapter.
    """
    header = read_header(path)
    dialect = identify(header.tensors.keys())
    unread = dialect.not_read_because()
    if unread and not dialect.is_adapter:
        refuse(header.path, *unread)
    check_header(header)
    try:
        scan_finite(header)
        digests = hashes.file_hashes(header.path)
        if unread:
            return _outline(header, dialect, digests, unread[0])
        return _in_full(header, dialect, digests)
    except OSError as error:
        refuse(header.path, f"it cannot be read ({printable(error)})")


def _in_full(header: Header, dialect: Dialect, digests: hashes.FileHashes) -> Description:
    layers = lay_out(header.path, header.shapes(), stem_table())
    summary = summarise(header.metadata)
    arch, assumed = infer_arch(layers, summary.arch)
    ranks = Counter(layer.rank for layer in layers)
    alphas = Counter(_alphas(header, layers))
    is_locon = any(max(layer.weight_shape[2:], default=1) > 1 for layer in layers)
    return Description(
        path=header.path,
        format=dialect.format,
        arch=arch,
        kind="locon" if is_locon else "lora",
        rank=ranks.most_common(1)[0][0],
        alpha=alphas.most_common(1)[0][0],
        ranks=_by_size(ranks),
        alphas=_by_size(alphas),
        modules=_by_size(Counter(layer.key.part for layer in layers)),
        dtypes=_dtypes(header),
        hashes=digests,
        summary=summary,
        metadata=header.metadata,
        problems=(
            *missing_alpha_notes(layers),
            *([assumed] if assumed else []),
            *_hash_problems(header.metadata, digests),
            *_arch_problems(arch, summary),
        ),
    )


def _outline(
    header: Header, dialect: Dialect, digests: hashes.FileHashes, reason: str
) -> Description:
    """What names alone tell about an adapter that cannot be read yet."""
    summary = summarise(header.metadata)
    named = {"sdxl": "sdxl"}.get(dialect.family)
    return Description(
        path=header.path,
        format=dialect.format,
        arch=named or summary.arch,
        kind=dialect.kind,
        rank=None,
        alpha=None,
        ranks={},
        alphas={},
        modules=_by_size(_modules_by_prefix(header.tensors)),
        dtypes=_dtypes(header),
        hashes=digests,
        summary=summary,
        metadata=header.metadata,
        problems=(
            f"Not readable here: {reason}.",
            *_hash_problems(header.metadata, digests),
        ),
    )


def _alphas(header: Header, layers: Iterable[LayerLayout]) -> list[float]:
    found = []
    with header.path.open("rb") as file:
        for layer in layers:
            stated = read_number(file, header, layer.alpha) if layer.has_alpha else layer.rank
            found.append(checked_alpha(header.path, layer.stem, float(stated), layer.rank))
    return found


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


def _arch_problems(arch: str, summary: Summary) -> list[str]:
    if summary.arch and summary.arch != arch:
        return [f"The metadata says {summary.arch}, the shapes say {arch}."]
    return []


def _modules_by_prefix(names: Iterable[str]) -> Counter[str]:
    stems: dict[str, set[str]] = {}
    for name in names:
        part = next((p for prefix, p in _PART_PREFIXES if name.startswith(prefix)), None)
        if part:
            stem = name.split(".lora", 1)[0] if "." in name.split("_", 1)[0] else name.split(".")[0]
            stems.setdefault(part, set()).add(stem.removesuffix(".alpha"))
    return Counter({part: len(found) for part, found in stems.items()})


def _dtypes(header: Header) -> dict[str, int]:
    return _by_size(Counter(entry.dtype for entry in header.tensors.values()))


def _by_size(counts: Counter[_K]) -> dict[_K, int]:
    return dict(counts.most_common())
