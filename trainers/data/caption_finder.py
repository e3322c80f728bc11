"""Which captions belong to which picture of a folder, and what is wrong with them. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from lora_diffusion.errors import InputError
from trainers.data import caption_files, names
from trainers.data.decode import read_prompt
from trainers.data.problems import Problem
from trainers.data.subsets import Subset
from trainers.data.walk import Tree
from trainers.spec import DataSpec

_NAMED = "data.caption_table"  # the table that the settings name, among those found in folders


class CaptionFinder:
    """Looks up captions by the names in one tree, and notes what is wrong with them."""

    def __init__(self, data: DataSpec, subset: Subset, tree: Tree, problems: list[Problem]) -> None:
        self.refused: set[str] = set()
        self._data = data
        self._tree = tree
        self._problems = problems
        self._endings = subset.caption_endings
        self._prefix = f"{subset.name}/" if subset.name else ""
        self._sidecars = {  # a.TXT is found as a.txt
            name[: len(name) - len(own)] + own.lower(): name
            for name in tree.files
            if (own := names.ending(name)).lower() in self._endings or name.endswith(self._endings)
        }
        self._claims: dict[str, str] = {}
        self._tables = dict(self._read_tables(subset))

    def captions(self, name: str) -> tuple[tuple[str, ...], str]:
        """(captions, file they are from) of the picture `name`; none where there are none."""
        said, table = self._look_up(name)
        candidates = caption_files.sidecar_names(name, self._endings)
        for place, key in enumerate(candidates):
            if key not in self._sidecars:
                continue
            file = self._sidecars[key]
            owner = self._claims.setdefault(file, name)
            if owner != name:
                self._tell_shared(file, owner, name)
                return (), file
            captions = self._read(name, file)
            if captions and said and said != captions:
                self._tell_contradiction(name, file, table)
            self._compare(name, file, captions, candidates[place + 1 :])
            return captions, file
        if said:
            return said, table
        sample = names.without_ending(name) + caption_files.SAMPLE_ENDING
        if {name, sample} <= self._tree.members.keys() and (captions := self._read(name, sample)):
            return captions, sample
        if self._data.picture_text and (prompt := read_prompt(self._tree.source(name))):
            return (prompt,), name
        return (), ""

    def _look_up(self, name: str) -> tuple[tuple[str, ...], str]:
        if not self._tables:
            return (), ""
        folder, _, inner = name.rpartition("/")
        beside = f"{folder}/{caption_files.TABLE_NAME}" if folder else caption_files.TABLE_NAME
        for file, key in ((beside, inner), (caption_files.TABLE_NAME, name), (_NAMED, name)):
            if captions := caption_files.look_up(self._tables.get(file, {}), key):
                return captions, file
        return (), ""

    def leftovers(self) -> Iterator[Problem]:
        """Caption files that no picture has, once all pictures have been asked for."""
        for file in self._sidecars.values():
            if file not in self._claims:
                yield Problem(
                    self._prefix + file,
                    "note",
                    "caption-without-picture",
                    "has no picture of its name beside it",
                    "Give it its picture's name, or remove it.",
                )

    def _read(self, name: str, file: str) -> tuple[str, ...]:
        try:
            text = caption_files.read_text(self._tree.source(file), self._data.caption_encoding)
        except InputError as error:
            self.refused.add(name)
            cause, _, fix = str(error).partition(". ")
            self._problems.append(
                Problem(self._prefix + file, "error", "caption-encoding", cause, fix)
            )
            return ()
        if file.endswith(caption_files.SAMPLE_ENDING):
            return caption_files.sample_captions(text)
        captions = caption_files.split(text, one_a_line=self._data.caption_lines)
        if not captions:
            self._problems.append(
                Problem(
                    self._prefix + file,
                    "warning",
                    "empty-caption",
                    "is empty, and counts as no caption",
                    "Write what the picture shows into it, or remove it.",
                )
            )
        return captions

    def _compare(
        self, name: str, file: str, captions: tuple[str, ...], rest: tuple[str, ...]
    ) -> None:
        """Tell of another caption file, one of the names `rest`, that says otherwise."""
        for key in rest:
            other = self._sidecars.get(key)
            if other is None or self._claims.setdefault(other, name) != name:
                continue
            if captions and self._read(name, other) != captions:
                self._tell_contradiction(name, file, other)

    def _tell_contradiction(self, name: str, taken: str, other: str) -> None:
        self._problems.append(
            Problem(
                self._prefix + name,
                "warning",
                "contradictory-captions",
                f"has two captions that differ; {names.base(taken)} is taken and "
                f"{names.base(other)} is not",
                "Remove the wrong one.",
            )
        )

    def _tell_shared(self, file: str, owner: str, name: str) -> None:
        self.refused |= {owner, name}
        self._problems.append(
            Problem(
                self._prefix + name,
                "error",
                "shared-caption",
                f"and {names.base(owner)} share one caption file, {names.base(file)}",
                f"Give each its own: {names.base(name)}.txt and {names.base(owner)}.txt.",
            )
        )

    def _read_tables(self, subset: Subset) -> Iterator[tuple[str, caption_files.Table]]:
        for name in self._tree.files:
            if names.base(name) == caption_files.TABLE_NAME:
                path = self._tree.source(name)
                yield name, caption_files.read_table(path, self._problems)
        if subset.caption_table is not None:
            yield _NAMED, caption_files.read_table(subset.caption_table, self._problems)
