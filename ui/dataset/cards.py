"""What the page is told about an open folder and its pictures, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_diffusion.errors import InputError, printable
from trainers.data import buckets, decode
from trainers.data.buckets import Fit
from trainers.data.caption_edits import count_tags
from trainers.data.mends import excluded
from trainers.data.names import base
from trainers.data.scan import PICTURE_ENDINGS
from ui import words
from ui.answers import Json
from ui.dataset import counting, looking
from ui.dataset.folder import Filter, OpenFolder, Snapshot, ids_of
from ui.gate.shelf import Shelf

PAGE = 120
_THUMBNAIL_PX = 256
_SHOWN_PX = 1280
_CAPTION_SHOWN = 160
_TAGS_SHOWN = 80
_UNREADABLE = "unreadable-picture"


def page(
    opened: OpenFolder, shelf: Shelf, wanted: Filter, drafts: dict[str, str], first: int
) -> Json:
    """`PAGE` pictures of those that the filter shows, from the one at `first` on."""
    snapshot = opened.snapshot
    names = snapshot.matching(wanted, frozenset(drafts))
    first = max(0, min(first, len(names)))
    shown = names[first : first + PAGE]
    return {
        "version": snapshot.version,
        "total": len(names),
        "first": first,
        "items": [_item(snapshot, shelf, name, drafts) for name in shown],
    }


def place(opened: OpenFolder, wanted: Filter, drafts: dict[str, str], name: str) -> int:
    """Where a picture is among those that the filter shows; -1 where it is not."""
    names = opened.snapshot.matching(wanted, frozenset(drafts))
    return names.index(name) if name in names else -1


def _item(snapshot: Snapshot, shelf: Shelf, name: str, drafts: dict[str, str]) -> Json:
    picture = snapshot.pictures[name]
    kinds = dict.fromkeys(problem.kind for problem in snapshot.problems.get(name, ()))
    worst = {problem.severity for problem in snapshot.problems.get(name, ())}
    return {
        "id": ids_of([name])[0],
        "name": printable(base(name), 80),
        "caption": printable(drafts.get(name) or snapshot.caption(name), _CAPTION_SHOWN),
        "is_draft": name in drafts,
        "badges": [looking.badge(kind) for kind in kinds][:3],
        "is_bad": "error" in worst,
        "has_mask": picture.mask is not None,
        "thumbnail": None
        if _UNREADABLE in kinds
        else _thumbnail(shelf, picture.path, _THUMBNAIL_PX),
    }


def detail(opened: OpenFolder, shelf: Shelf, name: str, drafts: dict[str, str]) -> Json:
    """All about one picture."""
    snapshot = opened.snapshot
    picture = snapshot.pictures[name]
    target = opened.target_of(name)
    try:
        text, problem = opened.text_of(name), ""
    except InputError as error:
        text, problem = "", printable(error, 300)
    size = picture.size_px or _size_of(picture.path)
    fits = _fit(opened, size)
    mask = picture.mask
    return {
        "id": ids_of([name])[0],
        "name": printable(name, 200),
        "picture": None
        if _UNREADABLE in {p.kind for p in snapshot.problems.get(name, ())}
        else _thumbnail(shelf, picture.path, _SHOWN_PX),
        "mask": _thumbnail(shelf, mask, _SHOWN_PX),
        "width": size[1] if size else 0,
        "height": size[0] if size else 0,
        "text": text.rstrip("\r\n"),
        "text_problem": problem,
        "draft": drafts.get(name),
        "written_to": printable(target.name, 200),
        "from": "" if target.is_own or not target.source else printable(target.source, 200),
        "tokens": counting.told(text),
        "problems": [
            {"text": f"{_sentence(p.cause)}.", "fix": printable(p.fix, 300), "severity": p.severity}
            for p in snapshot.problems.get(name, ())
        ],
        "fit": fits,
    }


def summary(opened: OpenFolder) -> Json:
    """The folder itself: its numbers, the strip of findings, what can be undone."""
    snapshot = opened.snapshot
    last = opened.changes.last()
    total = len(snapshot.pictures)
    captioned = sum(map(snapshot.has_caption, snapshot.pictures))
    out = [name for name in excluded(opened.path) if Path(name).suffix.lower() in PICTURE_ENDINGS]
    return {
        "version": snapshot.version,
        "title": words.place(str(opened.path)),
        "folder": printable(opened.path, 4_096),
        "total": total,
        "text": _numbers(total, captioned),
        "captioned": captioned,
        "strip": looking.strip(snapshot),
        "looked": snapshot.report is not None,
        "undo": printable(last.title, 200) if last else "",
        "excluded": len([name for name in out if not Path(name).stem.endswith(".mask")]),
        "side_px": opened.side_px,
    }


def tag_cloud(opened: OpenFolder, wanted: Filter) -> Json:
    """The most frequent tags of the pictures shown, and in how many captions each is."""
    snapshot = opened.snapshot
    names = snapshot.matching(wanted, frozenset())
    counts = count_tags(map(snapshot.caption, names))
    most = list(counts.items())[:_TAGS_SHOWN]
    return {
        "tags": [{"tag": printable(tag, 80), "whole": tag[:500], "count": n} for tag, n in most],
        "more": max(0, len(counts) - len(most)),
    }


def bucket_table(opened: OpenFolder) -> Json:
    """Which sizes the pictures are trained at, how many each, and what is cropped away."""
    snapshot, rules = opened.snapshot, opened.rules
    sizes = [p.size_px for p in snapshot.pictures.values() if p.size_px]
    fits = [each for size in sizes if (each := buckets.fit(size, rules)) is not None]
    counted = buckets.count(fits, [1] * len(fits))
    lost = sum(each.crop_loss for each in fits) / len(fits) if fits else 0.0
    return {
        "side_px": opened.side_px,
        "buckets": [
            {
                "width": each.size_px[1], "height": each.size_px[0], "pictures": each.pictures,
                "crop_loss": round(each.crop_loss, 4),
            }
            for each in counted
        ],
        "crop_loss": round(lost, 4),
        "too_small": len(sizes) - len(fits),
        "unknown": len(snapshot.pictures) - len(sizes),
    }  # fmt: skip


def _fit(opened: OpenFolder, size: tuple[int, int] | None) -> Json | None:
    """The crop of training, in shares of the picture."""
    placed: Fit | None = buckets.fit(size, opened.rules) if size else None
    if placed is None or size is None:
        return None
    left, top, right, bottom = placed.box()
    height, width = size
    return {
        "box": [left / width, top / height, right / width, bottom / height],
        "width": placed.target_px[1], "height": placed.target_px[0],
        "crop_loss": round(placed.crop_loss, 4),
    }  # fmt: skip


def _numbers(total: int, captioned: int) -> str:
    if not total:
        return "no pictures left"
    if captioned in (0, total):
        told = "all with captions" if captioned else "none with a caption"
    else:
        told = f"{captioned:,} with a caption"
    return f"{words.counted(total, 'picture')}, {told}"


def _size_of(path: object) -> tuple[int, int] | None:
    if not isinstance(path, Path):
        return None
    try:
        return decode.read_size(path)
    except InputError:
        return None


def _thumbnail(shelf: Shelf, path: object, side_px: int) -> str | None:
    return shelf.thumbnail(path, side_px) if isinstance(path, Path) else None


def _sentence(cause: str) -> str:
    text = printable(cause, 400).rstrip(".")
    return text[:1].upper() + text[1:]


def names_of(opened: OpenFolder, picked: Sequence[object]) -> list[str]:
    """Names behind ids; each must be there."""
    return [opened.name_of(each) for each in picked]
