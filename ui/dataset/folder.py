"""A folder of pictures that is open in the studio: what is in it, found by ids, and its changes.

What counts as a picture, whose caption a file is, and what is wrong, are the trainer's own rules.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import write_text
from trainers.data import caption_files, mends, scan
from trainers.data.bucket_settings import bucket_rules
from trainers.data.buckets import BucketRules
from trainers.data.caption_edits import tags
from trainers.data.caption_targets import CaptionTargets, Target
from trainers.data.changes import HIDDEN, Change, Changes, Step, Write
from trainers.data.doctor import Report, diagnose
from trainers.data.index import Index, default_folder
from trainers.data.problems import Problem
from trainers.data.scan import Found, Picture
from trainers.spec import DataSpec
from ui.dataset.counting import find_tokens

SIDES_PX = (64, 128, 256, 512, 768, 1024)
DEFAULT_SIDE_PX = 512
_STEP_PX = 64
# New pictures that are examined while the page waits: so many, of so many bytes in all.
_AT_ONCE = 40
_BYTES_AT_ONCE = 8_000_000
_MANY = 500  # pictures from which on findings are renewed while the page goes on
_SETTINGS = "dataset.json"


@dataclass(frozen=True)
class Filter:
    """Which pictures are shown: those with all words, the tag, and a problem of the kind.

    `kind` may also be `problems` (any), `no-caption`, `drafts` or empty.
    """

    query: str = ""
    tag: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Snapshot:
    """What was in the folder at one moment.

    Attributes:
        version: rises with each look.
        found: pictures in order, and where their captions are from.
        names: id -> picture's name.
        pictures: name -> the picture.
        targets: where new captions go.
        problems: picture's name -> what is wrong with it.
        general: what is wrong and is no picture's.
        report: the doctor's; None until every picture was looked at.
    """

    version: int
    found: Found
    names: dict[str, str]
    pictures: dict[str, Picture]
    targets: CaptionTargets
    problems: dict[str, list[Problem]]
    general: list[Problem]
    report: Report | None
    _matches: dict[tuple[Filter, frozenset[str]], list[str]] = field(default_factory=dict)

    def caption(self, name: str) -> str:
        """What the picture is captioned with, on one line; empty where nothing is."""
        return " ".join(self.pictures[name].captions) if self.has_caption(name) else ""

    def has_caption(self, name: str) -> bool:
        """Whether a file or a table captions it."""
        return bool(self.found.origins[name].captions_from)

    def matching(self, wanted: Filter, drafts: frozenset[str]) -> list[str]:
        """Names of the pictures that a filter shows, in order."""
        key = (wanted, drafts if wanted.kind == "drafts" else frozenset())
        if key not in self._matches:
            self._matches.clear()
            self._matches[key] = [name for name in self.pictures if self._fits(name, *key)]
        return self._matches[key]

    def _fits(self, name: str, wanted: Filter, drafts: frozenset[str]) -> bool:
        if wanted.kind == "no-caption" and self.has_caption(name):
            return False
        if wanted.kind == "drafts" and name not in drafts:
            return False
        kinds = {problem.kind for problem in self.problems.get(name, ())}
        if wanted.kind == "problems" and not kinds:
            return False
        if wanted.kind not in ("", "no-caption", "drafts", "problems") and wanted.kind not in kinds:
            return False
        caption = self.caption(name)
        if wanted.tag and wanted.tag not in tags(caption):
            return False
        text = f"{name}\n{caption}".casefold()
        return all(word in text for word in wanted.query.casefold().split())


class OpenFolder:
    """One open folder. Its methods may be called from any thread."""

    def __init__(self, folder: Path, index_folder: Path | None = None) -> None:
        """
        Raises:
            InputError: no such folder, or no pictures in it.
        """
        self.path = folder
        self.changes = Changes(folder)
        self._index_folder = index_folder or default_folder()
        self._lock = threading.RLock()
        self._version = 0
        self._standing: Sequence[Problem] = ()
        self.snapshot: Snapshot
        self._publish(scan.find_all(self.data), None)
        self._examine_few()

    @property
    def data(self) -> DataSpec:
        """The settings that a training on this folder begins with."""
        return DataSpec(folder=str(self.path), resolution_px=self.side_px)

    @property
    def side_px(self) -> int:
        """Side of the squares that it is judged for."""
        try:
            kept = json.loads((self.path / HIDDEN / _SETTINGS).read_bytes())["resolution_px"]
        except (OSError, ValueError, KeyError, TypeError):
            return DEFAULT_SIDE_PX
        return kept if kept in SIDES_PX else DEFAULT_SIDE_PX

    @side_px.setter
    def side_px(self, side: int) -> None:
        if side not in SIDES_PX:
            raise InputError(f"Size: choose one of {', '.join(map(str, SIDES_PX))} px.")
        write_text(self.path / HIDDEN / _SETTINGS, json.dumps({"resolution_px": side}))

    @property
    def rules(self) -> BucketRules:
        """The buckets of that size."""
        return bucket_rules(self.data, self.side_px, min(_STEP_PX, self.side_px // 4))

    def refresh(self) -> None:
        """Look at the folder again; the doctor's report is renewed where few pictures are new."""
        with self._lock:
            try:
                found = scan.find_all(self.data)
            except InputError:  # its last picture was taken out, or the folder itself
                found = Found()
            self._publish(found, None, self._standing)
            self._examine_few()

    def few_unseen(self) -> bool:
        """Whether the doctor knows all pictures, or those new to it are few and small."""
        stats = self.snapshot.found.stats
        known = Index(self._index_folder, [self.path]).read(stats)
        unseen = [stat.size_bytes for name, stat in stats.items() if name not in known]
        return len(unseen) <= _AT_ONCE and sum(unseen) <= _BYTES_AT_ONCE

    def _examine_few(self) -> None:
        if 0 < len(self.snapshot.pictures) < _MANY and self.few_unseen():
            self.examine()

    def examine(self) -> None:
        """Take the doctor's look. Slow where pictures are new to the index."""
        report = diagnose(
            self.data,
            rules=self.rules,
            find_tokens=find_tokens,
            captions_needed=False,
            index_folder=self._index_folder,
        )
        with self._lock:
            stats = self.snapshot.found.stats
            found = Found(report.pictures, report.problems, stats, dict(report.origins))
            self._standing = report.problems
            self._publish(found, report)

    def _publish(
        self, found: Found, report: Report | None, standing: Sequence[Problem] = ()
    ) -> None:
        """Show what was found; `standing` is what was wrong before, until the doctor has looked."""
        self._version += 1
        if standing and report is None:
            here = found.origins.keys() | {o.captions_from for o in found.origins.values()} | {""}
            found.problems[:] = [each for each in standing if each.file in here]
        pictures = {picture.name: picture for picture in found.pictures}
        sources = {o.captions_from: name for name, o in found.origins.items() if o.captions_from}
        problems: dict[str, list[Problem]] = {}
        general = []
        for problem in found.problems:
            if report is None and problem.kind == "no-caption":
                continue
            name = problem.file if problem.file in pictures else sources.get(problem.file, "")
            if name:
                problems.setdefault(name, []).append(problem)
            else:
                general.append(problem)
        self.snapshot = Snapshot(
            self._version, found, {_id(name): name for name in pictures}, pictures,
            CaptionTargets(found), problems, general, report,
        )  # fmt: skip

    # ---- one picture ----

    def name_of(self, picked: object) -> str:
        """The picture's name behind an id.

        Raises:
            InputError: there is none.
        """
        name = self.snapshot.names.get(picked) if isinstance(picked, str) else None
        if name is None:
            raise InputError("That picture is no longer in the folder. Choose another one.")
        return name

    def file_of(self, name: str) -> Path:
        """The picture's file.

        Raises:
            InputError: it lies in a tar.
        """
        path = self.snapshot.pictures[name].path
        if not isinstance(path, Path):
            raise InputError(
                f"{printable(name)}: lies in a tar, which is not written to. Unpack it first."
            )
        return path

    def target_of(self, name: str) -> Target:
        """Where the picture's caption goes."""
        return self.snapshot.targets.of(name)

    def text_of(self, name: str) -> str:
        """The caption as it is in its file, line breaks and all; else as the table has it.

        Raises:
            InputError: the file is in an encoding that can only be guessed.
        """
        target = self.target_of(name)
        if not target.is_own:
            return self.snapshot.caption(name)
        try:
            return caption_files.read_text(self.path / target.name)
        except InputError as error:
            raise InputError(f"{printable(target.name)}: {error}") from None

    # ---- changes ----

    def change(self, title: str, steps: Sequence[Step]) -> Change:
        """Make a change that can be undone, and look again."""
        with self._lock:
            made = self.changes.make(title, steps)
            self.refresh()
            return made

    def undo(self) -> Change:
        """Take the newest change back, and look again."""
        with self._lock:
            undone = self.changes.undo()
            self.refresh()
            return undone

    def caption_steps(self, texts: dict[str, str]) -> list[Write]:
        """Steps that give pictures these captions; what is so already is left out.

        The last line break of a file stays as it is, a new file ends with one.

        Raises:
            InputError: a picture lies in a tar, or its caption can't be read.
        """
        steps = []
        for name, text in texts.items():
            self.file_of(name)
            target = self.target_of(name)
            before = self.text_of(name) if target.is_own else ""
            body = text.rstrip("\r\n")
            end = before[len(before.rstrip("\r\n")) :] if target.is_own else "\n"
            content = body + end if body or target.is_own else ""
            if content != before and (body or target.is_own):
                steps.append(Write(target.name, content.encode("utf-8", "replace")))
        return steps

    def exclude(self, names: Sequence[str]) -> Change:
        """Take pictures out of the dataset, with what is theirs."""
        with self._lock:
            for name in names:
                self.file_of(name)
            if len(names) >= len(self.snapshot.pictures):
                raise InputError("That would leave no picture. Keep at least one.")
            what = printable(names[0], 60) if len(names) == 1 else f"{len(names):,} pictures"
            steps = mends.excluding(names, self.snapshot.found, self.path)
            return self.change(f"Took out {what}", steps)


def read_filter(asked: Any) -> Filter:
    """The filter in a page's question."""
    given = asked if isinstance(asked, dict) else {}
    return Filter(*(str(given.get(key) or "")[:500] for key in ("query", "tag", "kind")))


def ids_of(names: Iterable[str]) -> list[str]:
    """The ids of pictures."""
    return [_id(name) for name in names]


def _id(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:20]
