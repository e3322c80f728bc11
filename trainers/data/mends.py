"""The steps that mend one kind of problem where the files lie; `Changes` takes and undoes them.

No torch. What is taken out of a dataset goes to `.excluded` within it, with its caption and its
mask; no training looks there, and it can be put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trainers.data import duplicates, text_encoding
from trainers.data.caption_files import sidecar_names
from trainers.data.changes import Move, Step, Write
from trainers.data.doctor import Report, usual_endings
from trainers.data.names import base, without_ending
from trainers.data.scan import Found, Picture

EXCLUDED = ".excluded"


def mends(kind: str) -> str:
    """What the mend of a kind of problem does, as a button says it; empty where there is none."""
    return _MENDS[kind][0] if kind in _MENDS else ""


def mended(kind: str) -> str:
    """The same once it is done."""
    verb, _, rest = mends(kind).partition(" ")
    return f"{_DONE[verb]} {rest}"


def steps_for(kind: str, report: Report, folder: Path) -> list[Step]:
    """What mends every problem of that kind in `folder`; empty where nothing does."""
    return list(_MENDS[kind][1](kind, report, folder)) if kind in _MENDS else []


def excluding(names: Sequence[str], found: Found | Report, folder: Path) -> list[Step]:
    """Take pictures out, each with the caption file and the mask that are its own."""
    pictures = {picture.name: picture for picture in found.pictures}
    staying = [p for name, p in pictures.items() if name not in set(names)]
    needed = {found.origins[p.name].captions_from for p in staying}
    needed |= {within(p.mask, folder) for p in staying}
    moved: dict[str, None] = {}
    for name in names:
        moved[name] = None
        source = found.origins[name].captions_from
        mask = within(pictures[name].mask, folder)
        for beside in (source if source in sidecar_names(name) else "", mask):
            if beside and beside not in needed:
                moved[beside] = None
    prefix = free_place(list(moved), folder)
    return [Move(name, prefix + name) for name in moved]


def excluded(folder: Path) -> list[str]:
    """Names of the files that were taken out, within `.excluded`."""
    root = folder / EXCLUDED
    found = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(found)


def free_place(names: Sequence[str], folder: Path) -> str:
    """Where in `.excluded` none of the names is taken: there, or in a numbered folder within."""
    number = 1
    while True:
        prefix = f"{EXCLUDED}/" if number == 1 else f"{EXCLUDED}/{number}/"
        if not any((folder / (prefix + name)).exists() for name in names):
            return prefix
        number += 1


def within(path: object, folder: Path) -> str:
    """The name within `folder` of a file that lies there; empty of another."""
    if isinstance(path, Path) and path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    return ""


def _flagged(kind: str, report: Report) -> list[str]:
    known = {picture.name for picture in report.pictures}
    return list(
        dict.fromkeys(p.file for p in report.problems if p.kind == kind and p.file in known)
    )


def _exclude(kind: str, report: Report, folder: Path) -> list[Step]:
    return excluding(_flagged(kind, report), report, folder)


def _exclude_copies(_kind: str, report: Report, folder: Path) -> list[Step]:
    """Of the same file under several names the captioned one stays, then that of the shortest."""
    names = [picture.name for picture in report.pictures]
    alike: dict[int, list[str]] = {}
    for later, first in duplicates.exact([report.facts[name] for name in names]).items():
        alike.setdefault(first, [names[first]]).append(names[later])
    out: list[str] = []
    for group in alike.values():
        ranked = sorted(group, key=lambda n: (not report.origins[n].captions_from, len(n), n))
        out += ranked[1:]
    return excluding(sorted(out), report, folder)


def _exclude_smaller(_kind: str, report: Report, folder: Path) -> list[Step]:
    """Of each two that look alike the one with fewer pixels, of equals the later."""
    facts = [report.facts[picture.name] for picture in report.pictures]
    out: dict[str, None] = {}
    for later, earlier in duplicates.near(facts, duplicates.exact(facts)).items():
        smaller = (
            earlier if _area(report.pictures[earlier]) < _area(report.pictures[later]) else later
        )
        out[report.pictures[smaller].name] = None
    return excluding(list(out), report, folder)


def _area(picture: Picture) -> int:
    height, width = picture.size_px or (0, 0)
    return height * width


def _rename(kind: str, report: Report, folder: Path) -> Iterator[Step]:
    """The ending of the picture's kind; a caption `a.jpg.txt` follows it."""
    taken: set[str] = set()
    for name in _flagged(kind, report):
        new = without_ending(name) + usual_endings(report.facts[name].format)[0]
        beside = {name: new}
        source = report.origins[name].captions_from
        if base(source).startswith(base(name) + "."):
            beside[source] = new + source[len(name) :]
        if any((folder / target).exists() or target in taken for target in beside.values()):
            continue  # the name is taken: a person has to choose
        taken |= set(beside.values())
        yield from (Move(old, to) for old, to in beside.items())


def _as_utf8(kind: str, report: Report, folder: Path) -> Iterator[Step]:
    for problem in report.problems:
        path = folder / problem.file
        if problem.kind != kind or not path.is_file():
            continue
        decoded = text_encoding.decode(path.read_bytes())
        if decoded is not None:
            yield Write(problem.file, decoded.text.encode())


def _own_captions(kind: str, report: Report, folder: Path) -> Iterator[Step]:
    """Each picture of a shared caption file gets its own; the shared one is taken out."""
    sharing: dict[str, list[str]] = {}
    for picture in report.pictures:
        source = report.origins[picture.name].captions_from
        if source and (folder / source).is_file():
            sharing.setdefault(source, []).append(picture.name)
    flagged = set(_flagged(kind, report))
    for source, names in sharing.items():
        if len(names) > 1 and flagged & set(names):
            content = (folder / source).read_bytes()
            yield from (Write(f"{name}.txt", content) for name in names)
            yield Move(source, free_place([source], folder) + source)


def _leftover_captions(kind: str, report: Report, folder: Path) -> Iterator[Step]:
    names = [p.file for p in report.problems if p.kind == kind and (folder / p.file).is_file()]
    prefix = free_place(names, folder)
    yield from (Move(name, prefix + name) for name in names)


_Mend = Callable[[str, Report, Path], "list[Step] | Iterator[Step]"]
_MENDS: dict[str, tuple[str, _Mend]] = {
    "duplicate": ("Take out the second copies", _exclude_copies),
    "near-duplicate": ("Take out the smaller of each two", _exclude_smaller),
    "unreadable-picture": ("Take them out", _exclude),
    "too-small": ("Take them out", _exclude),
    "flat": ("Take them out", _exclude),
    "wrong-ending": ("Rename them to what they are", _rename),
    "caption-encoding": ("Write them as UTF-8", _as_utf8),
    "shared-caption": ("Give each its own caption", _own_captions),
    "caption-without-picture": ("Take these texts out", _leftover_captions),
}
_DONE = {"Take": "Took", "Rename": "Renamed", "Write": "Wrote", "Give": "Gave"}
