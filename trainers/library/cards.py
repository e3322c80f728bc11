"""What the library knows of one file. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_diffusion.formats.describe import Description
from lora_diffusion.formats.summary import clean_metadata
from trainers.library.sidecars import Sidecar


@dataclass(frozen=True)
class Card:
    """One adapter of a library, or a file that is none, with the reason.

    Attributes:
        file: path within the library's folder, with `/`.
        name: what `<lora:NAME:1>` calls it: the file's stem.
        title: as the file or CivitAI tells it; the name where they don't.
        arch, base, kind, rank, alpha, dialect: see `formats.describe.Description`.
        modules: adapted layers by part.
        size_bytes, changed_ns: of the file.
        sha256, autov2, autov3: hashes; A1111 and CivitAI's AutoV3 are the same.
        trigger_words, tags: what calls it up; most frequent caption tags and their counts.
        description, notes, negative_text, preferred_weight: from the file or beside it.
        has_thumbnail: whether `Library.thumbnail` has a picture of it.
        problems: what is doubtful.
        broken: why it can't be used; "" for what can.
    """

    file: str
    name: str
    title: str
    size_bytes: int
    changed_ns: int
    arch: str | None = None
    base: str = ""
    kind: str = ""
    rank: int | None = None
    alpha: float | None = None
    dialect: str = ""
    modules: dict[str, int] | None = None
    sha256: str = ""
    autov2: str = ""
    autov3: str = ""
    trigger_words: tuple[str, ...] = ()
    tags: tuple[tuple[str, int], ...] = ()
    description: str = ""
    notes: str = ""
    negative_text: str = ""
    preferred_weight: float | None = None
    has_thumbnail: bool = False
    problems: tuple[str, ...] = ()
    broken: str = ""


@dataclass(frozen=True)
class Entry:
    """What a file itself tells, before anything beside it is looked at.

    Attributes:
        card: of it.
        metadata: its own, printable; its settings are in it.
        thumbnail: data URL of the picture in it, or "".
    """

    card: Card
    metadata: Mapping[str, str] = field(default_factory=dict)
    thumbnail: str = ""


def make_entry(file: str, size: int, changed_ns: int, found: Description) -> Entry:
    """What an adapter tells about itself."""
    summary, name = found.summary, Path(file).stem
    metadata = clean_metadata(found.metadata)
    metadata.pop("modelspec.thumbnail", None)  # large, and kept apart
    card = Card(
        file=file,
        name=name,
        title=summary.title or name,
        size_bytes=size,
        changed_ns=changed_ns,
        arch=found.arch,
        base=summary.base,
        kind=found.kind,
        rank=found.rank,
        alpha=found.alpha,
        dialect=found.format,
        modules=dict(found.modules),
        sha256=found.hashes.sha256,
        autov2=found.hashes.autov2,
        autov3=found.hashes.autov3,
        trigger_words=summary.trigger_words,
        tags=summary.tags,
        description=summary.description,
        notes=summary.usage_hint,
        has_thumbnail=bool(summary.thumbnail),
        problems=found.problems,
    )
    return Entry(card, metadata, summary.thumbnail)


def broken_entry(file: str, size: int, changed_ns: int, reason: str) -> Entry:
    """A file that can't be used."""
    name = Path(file).stem
    return Entry(Card(file, name, name, size, changed_ns, broken=reason))


def dressed(card: Card, side: Sidecar) -> Card:
    """The card with what lies beside the file, which wins where both tell."""
    words = tuple(filter(None, (word.strip() for word in side.activation_text.split(","))))
    return replace(
        card,
        title=side.title if side.title and card.title == card.name else card.title,
        base=card.base or side.base,
        trigger_words=words or card.trigger_words,
        description=side.description or card.description,
        notes=side.notes or card.notes,
        negative_text=side.negative_text,
        preferred_weight=side.preferred_weight,
        has_thumbnail=card.has_thumbnail or side.preview is not None,
    )
