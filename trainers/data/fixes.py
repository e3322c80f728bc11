"""A copy of a dataset with the safe fixes applied; the original is never written to. No torch.

Safe are: leaving out what can't be decoded and second copies of the same file; turning pictures
upright; saving as 8-bit RGB PNG what is neither plain RGB nor plain grey (transparency is kept, as
it may be a mask); and writing captions as UTF-8 beside their pictures.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path, PurePosixPath

from PIL import Image, ImageOps

from lora_diffusion.errors import InputError, printable
from trainers.data import caption_files, decode, duplicates, text_encoding
from trainers.data.doctor import Report, usual_endings
from trainers.data.examine import Facts
from trainers.data.scan import Picture

_PLAIN_MODES = frozenset({"RGB", "L", "RGBA", "LA"})


def write_fixed(report: Report, out: Path, max_megapixels: int) -> list[str]:
    """Copy the dataset of `report` to the new folder `out`; what was done, a line each.

    Raises:
        InputError: `out` holds something, lies within the dataset or around it, or can't be
            written. A copy that was not finished is taken away again.
    """
    roots = {origin.root for origin in report.origins.values()}
    _refuse_place(out, roots)
    partial = out.with_name(out.name + ".part")
    copy = _Copy(report, partial, max_megapixels)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        copy.run()
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            f"{printable(out)}: can't be written ({printable(error.strerror or error)}). Choose "
            "another folder for --fix, or free disk space."
        ) from None
    return copy.lines(out)


def _refuse_place(out: Path, roots: set[Path]) -> None:
    place = out.resolve()
    if (out.is_dir() and any(out.iterdir())) or (out.exists() and not out.is_dir()):
        raise InputError(f"{printable(out)}: exists already. Give --fix a new folder.")
    for root in (root.resolve() for root in roots):
        if place.is_relative_to(root) or root.is_relative_to(place):
            raise InputError(
                f"{printable(out)}: lies within the dataset. Give --fix a folder outside it."
            )


class _Copy:
    """The copying, and what it did."""

    def __init__(self, report: Report, folder: Path, max_megapixels: int) -> None:
        self._report = report
        self._folder = folder
        self._max_megapixels = max_megapixels
        self._done: Counter[str] = Counter()
        self._names: set[str] = set()

    def run(self) -> None:
        """Copy everything."""
        pictures = self._report.pictures
        skip = _second_copies(pictures, self._report)
        self._names = {
            picture.name.casefold()
            for index, picture in enumerate(pictures)
            if index not in skip and not self._report.facts[picture.name].error
        }
        for index, picture in enumerate(pictures):
            facts = self._report.facts[picture.name]
            if facts.error:
                self._done["left out, can't be used"] += 1
            elif index in skip:
                self._done["left out, a second copy"] += 1
            else:
                name = self._copy_picture(picture, facts)
                self._copy_caption(picture, name)
                self._copy_mask(picture, name)

    def lines(self, out: Path) -> list[str]:
        """What was done."""
        kept = self._done["pictures"]
        done = [f"  {what}: {number}" for what, number in self._done.items() if what != "pictures"]
        return [f"{printable(out)}: {kept} pictures written", *done]

    def _copy_picture(self, picture: Picture, facts: Facts) -> str:
        """Copy or convert one picture; its name in the copy."""
        self._done["pictures"] += 1
        name = picture.name
        first_only = facts.frames > 1 and facts.format != "MPO"
        if not (facts.is_turned or first_only or facts.mode not in _PLAIN_MODES):
            suffix = PurePosixPath(name).suffix.lower()
            usual = usual_endings(facts.format)
            if suffix not in usual:
                name = self._renamed(name, usual[0])
                self._done["renamed to the ending of their kind"] += 1
            self._target(name).write_bytes(picture.path.read_bytes())
            return name
        name = self._renamed(name, ".png")
        with (
            picture.path.open("rb") as file,
            decode.open_header(file, self._max_megapixels) as opened,
        ):
            converted = _converted(opened, facts)
            converted.save(self._target(name), "PNG")
        self._done["turned upright" if facts.is_turned else "saved as plain 8-bit PNG"] += 1
        return name

    def _copy_caption(self, picture: Picture, name: str) -> None:
        """The caption file, or the table, that the picture's captions are from."""
        origin = self._report.origins[picture.name]
        source, inner = origin.captions_from, origin.inner
        at = origin.captions_at
        if source in ("", inner) or at is None:
            return  # none, text within the picture, or a table that the settings name
        prefix = picture.name.removesuffix(inner)
        if PurePosixPath(source).name == caption_files.TABLE_NAME:
            target = self._target(prefix + source)
            if not target.exists():
                target.write_bytes(at.read_bytes())
            return
        content = at.read_bytes()
        decoded = text_encoding.decode(content)
        ending = PurePosixPath(source).suffix.lower()
        if decoded is not None and ending == caption_files.SAMPLE_ENDING:
            texts = caption_files.sample_captions(decoded.text)
            self._target(name.rpartition(".")[0] + ".txt").write_text("\n".join(texts), "utf-8")
            return
        whole = source.casefold().startswith(inner.casefold() + ".")
        target = self._target((name if whole else name.rpartition(".")[0]) + ending)
        if decoded is None:
            target.write_bytes(content)
            return
        target.write_text(decoded.text, encoding="utf-8", newline="")
        if decoded.text.encode() != content:
            self._done["captions written as UTF-8"] += 1

    def _copy_mask(self, picture: Picture, name: str) -> None:
        """A mask beside the picture; masks in folders of their own stay there."""
        mask = picture.mask
        root = self._report.origins[picture.name].root
        if mask is None or (isinstance(mask, Path) and not mask.is_relative_to(root)):
            return
        mark = mask.stem.removeprefix(PurePosixPath(picture.name).stem)
        if mark:
            target = self._target(name.rpartition(".")[0] + mark + mask.suffix)
            target.write_bytes(mask.read_bytes())

    def _target(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _renamed(self, name: str, ending: str) -> str:
        """`name` with another ending, or with one more where that name is taken."""
        stem, _, _ = name.rpartition(".")
        for candidate in (stem + ending, name + ending):
            if candidate == name or candidate.casefold() not in self._names:
                self._names.add(candidate.casefold())
                return candidate
        return f"{name}-{len(self._names)}{ending}"


def _converted(picture: Image.Image, facts: Facts) -> Image.Image:
    """Upright 8-bit; transparency is kept."""
    if not facts.mode.startswith("I;16") and picture.has_transparency_data:
        return ImageOps.exif_transpose(picture.convert("RGBA"))
    return decode.to_rgb(picture)


def _second_copies(pictures: list[Picture], report: Report) -> set[int]:
    """Later copies of the same file, in the same subset, with the same captions."""
    same = duplicates.exact([report.facts[picture.name] for picture in pictures])
    return {
        later
        for later, first in same.items()
        if (pictures[later].subset, pictures[later].captions)
        == (pictures[first].subset, pictures[first].captions)
    }
