"""What is wrong with a dataset, all of it, before training. No torch.

Each picture is opened once: its bytes are hashed, its structure checked and its pixels decoded,
and what was found is kept in an index for the next time.
"""

from __future__ import annotations

import gc
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lora_diffusion.errors import printable
from trainers.data import duplicates, scan
from trainers.data.buckets import BucketRules, fit
from trainers.data.examine import Facts, examine
from trainers.data.index import Index, default_folder
from trainers.data.names import ending, stem
from trainers.data.problems import SEVERITIES, Problem, count_kinds
from trainers.data.scan import Origin, Picture
from trainers.data.subsets import subsets
from trainers.data.tokens import CHUNK_TOKENS, ClipTokens
from trainers.spec import DataSpec

MAX_CROP_LOSS = 0.25
MAX_IMBALANCE = 10
_MAX_WORKERS = 4
_IN_FLIGHT = 64
_SHOWN = 80
_ENDING_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "DIB": (".bmp", ".dib"),
}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """A dataset and what is wrong with it.

    Attributes:
        pictures: every one, with size and digest where it can be decoded.
        facts: picture's name -> what its file is.
        origins: picture's name -> where it and its captions were found.
        problems: the gravest first, then by file.
    """

    pictures: list[Picture]
    facts: Mapping[str, Facts]
    origins: Mapping[str, Origin]
    problems: list[Problem]

    def count(self, severity: str) -> int:
        return sum(problem.severity == severity for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """`files`, `problems[{file, severity, kind, cause, fix}]`, `counts` and `kinds`."""
        return {
            "files": len(self.pictures),
            "problems": [problem.as_json() for problem in self.problems],
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "kinds": self.kinds(),
        }

    def kinds(self) -> dict[str, int]:
        """Kind -> how many, the gravest and then the most frequent first."""
        return count_kinds(self.problems)

    def summary(self) -> str:
        """One line: how many errors, warnings and notes, and of which kinds."""
        if not self.problems:
            return f"{len(self.pictures)} pictures, nothing to say against them"
        numbers = [
            f"{number} {severity}{'s' * (number > 1)}"
            for severity in SEVERITIES
            if (number := self.count(severity))
        ]
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.kinds().items())
        return f"{len(self.pictures)} pictures: {', '.join(numbers)} ({kinds})"


def diagnose(
    data: DataSpec,
    *,
    rules: BucketRules | None = None,
    find_tokens: Callable[[], ClipTokens | None] | None = None,
    captions_needed: bool = True,
    index_folder: Path | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Look at every picture and caption.

    Args:
        rules: the buckets of the training; None says nothing about sizes.
        find_tokens: gives CLIP's tokenizer, and is called where a caption is long; None counts no
            tokens.
        captions_needed: a picture without any caption is an error; else a warning.
        index_folder: where indexes are kept; None takes the user's cache folder.

    Raises:
        InputError: a folder is missing or has no pictures; all else is in the report.
    """
    with _collector_paused():
        found = scan.find_all(data)
    facts = _examine_all(data, found, index_folder or default_folder(), on_progress or _silent)
    with _collector_paused():
        pictures = [_with_facts(picture, facts[picture.name]) for picture in found.pictures]
        problems = [p for p in found.problems if captions_needed or p.kind != "no-caption"]
        problems += _of_files(pictures, facts)
        problems += _of_copies(pictures, facts)
        readable = [picture for picture in pictures if not facts[picture.name].error]
        problems += _of_captions(readable, found.origins)
        problems += _of_balance(pictures)
        if rules:
            problems += of_sizes(pictures, rules)
        if find_tokens:
            problems += _of_lengths(pictures, find_tokens)
    return Report(pictures, facts, found.origins, in_order(problems))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Spare the collector a million new objects, none in a cycle: half of a second look's time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def usual_endings(format: str) -> tuple[str, ...]:
    """Endings of files of a format that Pillow names so, the usual one first."""
    return _ENDING_OF.get(format, (f".{format.lower()}",))


def in_order(problems: Sequence[Problem]) -> list[Problem]:
    """The gravest first, then by file."""
    return sorted(problems, key=lambda p: (SEVERITIES.index(p.severity), p.file, p.kind))


def of_sizes(pictures: Sequence[Picture], rules: BucketRules) -> list[Problem]:
    """What the buckets do to pictures whose size is known."""
    found = []
    for picture in pictures:
        if picture.size_px is None:
            continue
        height, width = picture.size_px
        placed = fit(picture.size_px, rules)
        if placed is None:
            found.append(
                Problem(
                    picture.name,
                    "error",
                    "too-small",
                    f"is {width} x {height} px, smaller than every bucket at {rules.side_px} px",
                    "Set data.upscale, lower data.resolution_px, or use a larger picture.",
                )
            )
        elif placed.scale > 1:
            found.append(
                Problem(
                    picture.name,
                    "warning",
                    "enlarged",
                    f"is {width} x {height} px and is enlarged {placed.scale:.2f} times, which "
                    "teaches blur",
                    "Use a larger picture, or lower data.resolution_px.",
                )
            )
        elif placed.crop_loss > MAX_CROP_LOSS:
            to_height, to_width = placed.target_px
            found.append(
                Problem(
                    picture.name,
                    "warning",
                    "crop-loss",
                    f"is {width} x {height} px and loses {placed.crop_loss:.0%} of its area to "
                    f"the crop of {to_width} x {to_height} px",
                    "Crop it yourself around what matters.",
                )
            )
    return found


def _of_lengths(
    pictures: Sequence[Picture], find_tokens: Callable[[], ClipTokens | None]
) -> Iterator[Problem]:
    """Captions of more tokens than one chunk; no token is shorter than a character."""
    longest = {p.name: max(p.captions, key=len, default="") for p in pictures}
    suspects = [(name, text) for name, text in longest.items() if len(text) > CHUNK_TOKENS]
    if not suspects:
        return
    tokens = find_tokens()
    if tokens is None:
        yield Problem(
            "",
            "note",
            "no-tokenizer",
            "CLIP's tokenizer is not on this machine, so the captions' tokens are not counted",
            "Pass --tokenizer with the tokenizer folder of an SD1.x model.",
        )
        return
    for name, text in suspects:
        beyond = tokens.beyond(text)
        if beyond:
            yield Problem(
                name,
                "warning",
                "long-caption",
                f"has a caption of {tokens.count(text)} tokens; training reads all of it in "
                f"chunks of {CHUNK_TOKENS}, and programs that read one chunk stop before "
                f"'{printable(beyond, _SHOWN)}'",
                "Put what matters first, or shorten it.",
            )


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def _examine_all(
    data: DataSpec, found: scan.Found, index_folder: Path, on_progress: Progress
) -> dict[str, Facts]:
    """Picture's name -> facts: out of the index where it knows them, else by examining it."""
    index = Index(index_folder, [subset.folder for subset in subsets(data)])
    with _collector_paused():
        facts = index.read(found.stats)
    fresh: dict[str, Facts] = {}
    todo = [picture for picture in found.pictures if picture.name not in facts]
    total, done = len(found.pictures), len(facts)
    workers = max(1, min(_MAX_WORKERS, os.cpu_count() or 1))
    limit = data.max_megapixels
    with ThreadPoolExecutor(workers) as pool:
        waiting = iter(todo)
        while batch := list(islice(waiting, _IN_FLIGHT)):
            on_progress(done, total)
            results = pool.map(lambda picture: examine(picture.path, limit), batch)
            fresh.update(zip((picture.name for picture in batch), results, strict=True))
            done += len(batch)
    on_progress(total, total)
    if fresh or len(facts) < total:
        index.write(fresh, found.stats)
    return facts | fresh


def _with_facts(picture: Picture, facts: Facts) -> Picture:
    if facts.error:
        return picture
    return replace(picture, size_px=facts.size_px, digest=facts.digest)


def _of_files(pictures: Sequence[Picture], facts: Mapping[str, Facts]) -> Iterator[Problem]:
    for picture in pictures:
        each = facts[picture.name]
        if each.error:
            cause, _, fix = each.error.partition(". ")
            yield Problem(picture.name, "error", "unreadable-picture", cause, fix)
            continue
        if each.frames > 1 and each.format != "MPO":
            yield Problem(
                picture.name,
                "warning",
                "animation",
                f"holds {each.frames} pictures, of which the first is used",
                "Save the one you mean as a picture of its own.",
            )
        if each.is_flat:
            yield Problem(
                picture.name,
                "warning",
                "flat",
                "is one colour all over",
                "Look at it: it may be damaged or hidden by its transparency.",
            )
        own = ending(picture.name).lower()
        usual = usual_endings(each.format)
        if own not in usual:
            yield Problem(
                picture.name,
                "note",
                "wrong-ending",
                f"is a {each.format} picture, whatever its ending says",
                f"Rename it to {usual[0]}; other programs may refuse it.",
            )


def _of_copies(pictures: Sequence[Picture], facts: Mapping[str, Facts]) -> Iterator[Problem]:
    kinds = [facts[picture.name] for picture in pictures]
    same = duplicates.exact(kinds)
    for later, earlier in same.items():
        one, other = pictures[earlier], pictures[later]
        if one.subset != other.subset and one.path == other.path:
            continue  # a file that two subsets show on purpose
        yield Problem(
            other.name,
            "warning",
            "duplicate",
            f"is the same file as {printable(one.name)}, so it is learned twice",
            "Remove one; data.subsets repeats pictures on purpose.",
        )
        if one.captions != other.captions and one.captions and other.captions:
            yield Problem(
                other.name,
                "warning",
                "contradictory-captions",
                f"is the same picture as {printable(one.name)} with another caption",
                "Keep the right one.",
            )
    for later, earlier in duplicates.near(kinds, same).items():
        yield Problem(
            pictures[later].name,
            "warning",
            "near-duplicate",
            f"looks the same as {printable(pictures[earlier].name)}",
            "Keep the better one, unless you want it learned more.",
        )


def _of_captions(pictures: Sequence[Picture], origins: Mapping[str, Origin]) -> Iterator[Problem]:
    """Pictures without a caption of their own: one note if all are, a warning each if some."""
    instances = [picture for picture in pictures if not picture.is_class]
    without = [picture for picture in instances if not origins[picture.name].captions_from]
    if not without:
        return
    default = without[0].captions
    if len(without) == len(instances):
        learned = f"; all are learned as '{printable(default[0], 60)}'" if default else ""
        yield Problem(
            "",
            "note",
            "no-captions",
            f"No picture has a caption{learned}",
            "For a style or a varied subject, caption them."
            if default
            else "Caption them, or train with data.trigger.",
        )
        return
    for picture in without:
        learned = f" and is learned as '{printable(picture.caption, 60)}'" if default else ""
        yield Problem(
            picture.name,
            "warning",
            "missing-caption",
            f"has no caption{learned}",
            f"Put one into {stem(picture.name)}.txt beside it.",
        )


def _of_balance(pictures: Sequence[Picture]) -> Iterator[Problem]:
    visits: dict[str, int] = defaultdict(int)
    classes = instances = 0
    for picture in pictures:
        if picture.is_class:
            classes += 1
        else:
            instances += 1
            visits[picture.subset] += picture.repeats
    if len(visits) > 1:
        most = max(visits, key=lambda name: visits[name])
        least = min(visits, key=lambda name: visits[name])
        if visits[most] >= MAX_IMBALANCE * visits[least]:
            yield Problem(
                "",
                "warning",
                "imbalance",
                f"An epoch shows {printable(most or 'the folder itself', 60)} {visits[most]} times "
                f"and {printable(least or 'the folder itself', 60)} {visits[least]} times",
                "Raise the repeats of the rarer one.",
            )
    if 0 < classes < instances / MAX_IMBALANCE:
        yield Problem(
            "",
            "warning",
            "imbalance",
            f"There are {classes} regularisation pictures for {instances} others, so each is seen "
            "again and again",
            "Add some, or do without.",
        )
