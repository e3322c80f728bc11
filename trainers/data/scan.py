"""Find a dataset's pictures and their captions. No torch, and no decoding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from trainers.data import shards
from trainers.data.caption_finder import CaptionFinder
from trainers.data.captions import with_trigger
from trainers.data.names import ending, stem, without_ending
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
        tree, names = _walk(data, subset)
        _look_through(data, subset, tree, names, found)
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
        _, names = _walk(data, subset)
        for name in names:
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
    _look_through(DataSpec(), subset, tree, _require_pictures(tree), found)
    refuse_errors(found.problems)
    return found.pictures


def _walk(data: DataSpec, subset: Subset) -> tuple[Tree, list[str]]:
    """The files of a subset, and which of them are pictures."""
    other = [bundled.resolve(data.class_folder)] if data.class_folder else []
    if subset.mask_folder:
        other.append(subset.mask_folder)
    if shards.names_shards(subset.folder):
        tree = shards.tree_of(subset.folder)
    else:
        tree = walk(subset.folder, nested=data.nested, without=other)
    shards.add_members(tree)
    return tree, _require_pictures(tree)


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
    own = ending(name)
    return own.lower() in PICTURE_ENDINGS and not name.endswith(_MASK_MARKS, 0, -len(own))


def _part_of(data: DataSpec, subset: Subset, name: str) -> Subset:
    return in_kohya_folder(subset, name) if data.kohya_folders else subset


def _look_through(
    data: DataSpec, subset: Subset, tree: Tree, names: list[str], found: Found
) -> None:
    """Add the pictures of one subset, which have those `names`, to `found`."""
    prefix = f"{subset.name}/" if subset.name else ""
    found.problems.extend(_of_other_files(tree, prefix))
    finder = CaptionFinder(data, subset, tree, found.problems)
    masks = _Masks(subset, tree)
    for name in names:
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
    part: Subset, name: str, finder: CaptionFinder, prefix: str, problems: list[Problem]
) -> tuple[str, ...]:
    if part.default_caption is not None:
        return (part.default_caption,)
    if part.is_class:
        return ("",)
    if name not in finder.refused:
        problems.append(
            Problem(
                prefix + name,
                "error",
                "no-caption",
                "has no caption",
                f"Put one into {stem(name)}.txt beside it, or set data.trigger.",
            )
        )
    return ()


class _Masks:
    """Finds masks: in the subset's folder of masks, or beside the picture as `a.mask.png`."""

    def __init__(self, subset: Subset, tree: Tree) -> None:
        self._beside = {
            without_ending(name): tree.source(name)
            for name in tree.files
            if any(mark in name for mark in _MASK_MARKS)
            and without_ending(name).endswith(_MASK_MARKS)
        }
        self._apart: dict[str, Source] = {}
        if subset.mask_folder is not None:
            folder = walk(subset.mask_folder)
            for name in folder.files:
                self._apart[name] = self._apart[without_ending(name)] = folder.root / name

    def of(self, name: str) -> Source | None:
        """The mask of the picture `name`."""
        if not (self._apart or self._beside):
            return None
        plain = without_ending(name)
        for key in (name, plain):
            if key in self._apart:
                return self._apart[key]
        marked = (plain + mark for mark in _MASK_MARKS)
        return next((self._beside[key] for key in marked if key in self._beside), None)


def _of_other_files(tree: Tree, prefix: str) -> Iterator[Problem]:
    for problem in tree.problems:
        name = prefix + problem.file
        if problem.kind != "no-file":
            yield replace(problem, file=name)
        elif _is_picture(problem.file):
            yield replace(problem, file=name, severity="error")
    for name in tree.files:
        own = ending(name).lower()
        if own in _UNREAD_ENDINGS:
            yield Problem(
                prefix + name,
                "warning",
                "unread-type",
                f"is a {own} file, which is not read, and is left out",
                "Save it as PNG or JPEG, or take it out of the folder.",
            )
