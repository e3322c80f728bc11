"""Find a dataset's pictures and their captions. No torch, and no decoding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from trainers.data import caption_files, shards
from trainers.data.captions import with_trigger
from trainers.data.decode import read_prompt
from trainers.data.problems import Problem, refuse_errors
from trainers.data.source import Source
from trainers.data.subsets import Subset, in_kohya_folder, subsets
from trainers.data.walk import Stat, Tree, walk
from trainers.spec import DataSpec

PICTURE_ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
)
# Pictures and films that people put into such folders and that are not read.
_UNREAD_ENDINGS = frozenset(
    {
        *(".heic", ".heif", ".jxl", ".jp2", ".psd", ".xcf", ".svg", ".tga", ".exr", ".hdr"),
        *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf"),
        *(".mp4", ".mov", ".mkv", ".avi", ".webm"),
    }
)
_MASK_MARKS = (".mask", "-masklabel")
_NAMED = "data.caption_table"  # the table that the settings name, among those found in folders


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture on disk and what it shows.

    Attributes:
        path: the file, or a member of a tar.
        captions: the prompts it is trained with, one or several, each with the trigger in it.
        is_class: a prior-preservation (regularisation) picture, not an instance.
        name: the file's path within its dataset, with `/`; unlike the stem it is unique there.
        repeats: how often an epoch shows it.
        weight: factor on its loss.
        subset: name of the part of the dataset that it belongs to; empty where there is one only.
        trigger: the trigger word of that part.
        mask: greyscale picture that says where the loss counts; None counts everywhere.
        size_px: (height, width) upright, once the header has been read.
        digest: SHA-256 of the file's bytes, in hexadecimal, once they have been read.
    """

    path: Source
    captions: tuple[str, ...]
    is_class: bool = False
    name: str = ""
    repeats: int = 1
    weight: float = 1.0
    subset: str = ""
    trigger: str | None = None
    mask: Source | None = None
    size_px: tuple[int, int] | None = None
    digest: str | None = None

    @property
    def caption(self) -> str:
        """The first caption."""
        return self.captions[0]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a picture and its captions were found.

    Attributes:
        root: folder of its subset.
        inner: its name within the root, with `/`.
        captions_from: the file that its captions are from, likewise; empty where they are the
            default.
        captions_at: where that file's bytes are.
    """

    root: Path
    inner: str
    captions_from: str
    captions_at: Source | None = None


@dataclass(frozen=True)
class Found:
    """What a look at the folders gave.

    Attributes:
        pictures: in order of subset and name; one without a caption has no `captions`.
        problems: what is wrong with them, as far as names and caption files tell.
        stats: picture's name -> its file's size and time.
        origins: picture's name -> where it and its captions were found.
    """

    pictures: list[Picture] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    stats: dict[str, Stat] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)


def find_all(data: DataSpec) -> Found:
    """Every picture of the dataset, and everything wrong that can be seen without decoding.

    Raises:
        InputError: a folder is missing or has no pictures.
    """
    found = Found()
    parts = subsets(data)
    for subset in parts:
        tree = _walk(data, subset)
        _look_through(data, subset, tree, found)
    return found


def find(data: DataSpec) -> list[Picture]:
    """Every picture of the dataset with its captions.

    Raises:
        InputError: a folder is missing or has no pictures; or names, a line each, the pictures
            without a caption and the caption files that can't be used.
    """
    found = find_all(data)
    refuse_errors(found.problems)
    return found.pictures


def outline(data: DataSpec) -> list[tuple[Subset, int]]:
    """The parts of a dataset and how many pictures each has, from file names alone.

    Raises:
        InputError: a folder is missing or has no pictures.
    """
    counts: dict[Subset, int] = defaultdict(int)
    for subset in subsets(data):
        for name in _picture_names(_walk(data, subset)):
            counts[_part_of(data, subset, name)] += 1
    return list(counts.items())


def list_pictures(folder: Path) -> list[Path]:
    """Pictures directly in `folder`, by name, maybe none; hidden files are left out.

    Raises:
        InputError: no such folder, unreadable, or with an absurd number of files.
    """
    return [folder / name for name in _picture_names(walk(folder, nested=False))]


def find_pictures(folder: Path) -> list[Path]:
    """Pictures in `folder` and the folders within it, by name; at least one.

    Raises:
        InputError: also if there are none.
    """
    tree = walk(folder)
    return [folder / name for name in _require_pictures(tree)]


def scan(folder: Path, *, default_caption: str | None, trigger: str | None = None) -> list[Picture]:
    """The pictures directly in `folder`, with its captions.

    Args:
        default_caption: for pictures without a caption file; None makes that an error.
        trigger: put before captions that lack it.

    Raises:
        InputError: as `find`.
    """
    found = Found()
    subset = Subset(folder, trigger=trigger, default_caption=default_caption)
    tree = walk(folder, nested=False)
    _require_pictures(tree)
    _look_through(DataSpec(), subset, tree, found)
    refuse_errors(found.problems)
    return found.pictures


def _walk(data: DataSpec, subset: Subset) -> Tree:
    other = [bundled.resolve(data.class_folder)] if data.class_folder else []
    if subset.mask_folder:
        other.append(subset.mask_folder)
    if shards.names_shards(subset.folder):
        tree = shards.tree_of(subset.folder)
    else:
        tree = walk(subset.folder, nested=data.nested, without=other)
    shards.add_members(tree)
    _require_pictures(tree)
    return tree


def _picture_names(tree: Tree) -> list[str]:
    return [name for name in tree.files if _is_picture(name)]


def _require_pictures(tree: Tree) -> list[str]:
    names = _picture_names(tree)
    if not names:
        endings = " ".join(sorted(PICTURE_ENDINGS))
        raise InputError(
            f"{printable(tree.root)}: has no pictures ({endings}). Choose the folder that holds "
            "them."
        )
    return names


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in PICTURE_ENDINGS and not path.stem.endswith(_MASK_MARKS)


def _part_of(data: DataSpec, subset: Subset, name: str) -> Subset:
    return in_kohya_folder(subset, name) if data.kohya_folders else subset


def _look_through(data: DataSpec, subset: Subset, tree: Tree, found: Found) -> None:
    """Add the pictures of one subset to `found`."""
    found.problems.extend(_of_other_files(tree))
    finder = _CaptionFinder(data, subset, tree, found.problems)
    masks = _Masks(subset, tree)
    prefix = f"{subset.name}/" if subset.name else ""
    for name in _picture_names(tree):
        part = _part_of(data, subset, name)
        captions, source = finder.captions(name)
        if not captions:
            captions = _default(part, name, finder, prefix, found.problems)
        full_name = prefix + name
        found.stats[full_name] = tree.files[name]
        found.origins[full_name] = Origin(
            tree.root, name, source, tree.source(source) if source in tree.files else None
        )
        found.pictures.append(
            Picture(
                path=tree.source(name),
                captions=tuple(with_trigger(caption, part.trigger) for caption in captions),
                is_class=part.is_class,
                name=full_name,
                repeats=part.repeats,
                weight=part.weight,
                subset=part.name,
                trigger=part.trigger,
                mask=masks.of(name),
            )
        )
    found.problems.extend(finder.leftovers())


def _default(
    part: Subset, name: str, finder: _CaptionFinder, prefix: str, problems: list[Problem]
) -> tuple[str, ...]:
    if part.default_caption is not None:
        return (part.default_caption,)
    if part.is_class:
        return ("",)
    if name not in finder.refused:
        stem = PurePosixPath(name).stem
        problems.append(
            Problem(
                prefix + name,
                "error",
                "no-caption",
                "has no caption",
                f"Put one into {stem}.txt beside it, or set data.trigger.",
            )
        )
    return ()


class _CaptionFinder:
    """Looks up captions by the names in one tree, and notes what is wrong with them."""

    def __init__(self, data: DataSpec, subset: Subset, tree: Tree, problems: list[Problem]) -> None:
        self.refused: set[str] = set()
        self._data = data
        self._tree = tree
        self._problems = problems
        self._endings = subset.caption_endings
        self._prefix = f"{subset.name}/" if subset.name else ""
        self._sidecars = {  # a.TXT is found as a.txt
            name.removesuffix(ending) + ending.lower(): name
            for name in tree.files
            if (ending := PurePosixPath(name).suffix).lower() in self._endings
            or name.endswith(self._endings)
        }
        self._claims: dict[str, str] = {}
        self._tables = dict(self._read_tables(subset))

    def captions(self, name: str) -> tuple[tuple[str, ...], str]:
        """(captions, file they are from) of the picture `name`; none where there are none."""
        said, table = self._look_up(name)
        for key in caption_files.sidecar_names(name, self._endings):
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
            if captions:
                self._compare(name, file, captions)
            return captions, file
        if said:
            return said, table
        sample = name.removesuffix(PurePosixPath(name).suffix) + caption_files.SAMPLE_ENDING
        if {name, sample} <= self._tree.members.keys() and (captions := self._read(name, sample)):
            return captions, sample
        if self._data.picture_text and (prompt := read_prompt(self._tree.source(name))):
            return (prompt,), name
        return (), ""

    def _look_up(self, name: str) -> tuple[tuple[str, ...], str]:
        folder, _, inner = name.rpartition("/")
        beside = f"{folder}/{caption_files.TABLE_NAME}" if folder else caption_files.TABLE_NAME
        for file, key in ((beside, inner), (caption_files.TABLE_NAME, name), (_NAMED, name)):
            if captions := caption_files.look_up(self._tables.get(file, {}), key):
                return captions, file
        return (), ""

    def leftovers(self) -> Iterator[Problem]:
        """Caption files that no picture has."""
        pictures = {
            key
            for name in _picture_names(self._tree)
            for key in caption_files.sidecar_names(name, self._endings)
        }
        for key, file in self._sidecars.items():
            if key not in pictures:
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

    def _compare(self, name: str, file: str, captions: tuple[str, ...]) -> None:
        """Tell of another caption file that says otherwise."""
        for key in caption_files.sidecar_names(name, self._endings):
            other = self._sidecars.get(key)
            if other is None or other == file or self._claims.setdefault(other, name) != name:
                continue
            if self._read(name, other) != captions:
                self._tell_contradiction(name, file, other)

    def _tell_contradiction(self, name: str, taken: str, other: str) -> None:
        self._problems.append(
            Problem(
                self._prefix + name,
                "warning",
                "contradictory-captions",
                f"has two captions that differ; {PurePosixPath(taken).name} is taken and "
                f"{PurePosixPath(other).name} is not",
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
                f"and {PurePosixPath(owner).name} share one caption file, "
                f"{PurePosixPath(file).name}",
                f"Give each its own: {PurePosixPath(name).name}.txt and "
                f"{PurePosixPath(owner).name}.txt.",
            )
        )

    def _read_tables(self, subset: Subset) -> Iterator[tuple[str, caption_files.Table]]:
        for name in self._tree.files:
            if PurePosixPath(name).name == caption_files.TABLE_NAME:
                path = self._tree.source(name)
                yield name, caption_files.read_table(path, self._problems)
        if subset.caption_table is not None:
            yield _NAMED, caption_files.read_table(subset.caption_table, self._problems)


class _Masks:
    """Finds masks: in the subset's folder of masks, or beside the picture as `a.mask.png`."""

    def __init__(self, subset: Subset, tree: Tree) -> None:
        self._beside = {
            name.rpartition(".")[0]: tree.source(name)
            for name in tree.files
            if PurePosixPath(name).stem.endswith(_MASK_MARKS)
        }
        self._apart: dict[str, Source] = {}
        if subset.mask_folder is not None:
            folder = walk(subset.mask_folder)
            for name in folder.files:
                self._apart[name] = self._apart[name.rpartition(".")[0]] = folder.root / name

    def of(self, name: str) -> Source | None:
        """The mask of the picture `name`."""
        stem = name.rpartition(".")[0]
        for key in (name, stem):
            if key in self._apart:
                return self._apart[key]
        return next(
            (self._beside[stem + mark] for mark in _MASK_MARKS if stem + mark in self._beside), None
        )


def _of_other_files(tree: Tree) -> Iterator[Problem]:
    for problem in tree.problems:
        if problem.kind != "no-file":
            yield problem
        elif _is_picture(problem.file):
            yield replace(problem, severity="error")
    for name in tree.files:
        ending = PurePosixPath(name).suffix.lower()
        if ending in _UNREAD_ENDINGS:
            yield Problem(
                name,
                "warning",
                "unread-type",
                f"is a {ending} file, which is not read, and is left out",
                "Save it as PNG or JPEG, or take it out of the folder.",
            )
