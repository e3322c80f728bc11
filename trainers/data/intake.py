"""Files that a person adds to a dataset, loose or in zips: into one folder, over nothing. No torch.

A picture keeps its caption and its mask: what belongs to one stem gets one new stem where the name
is taken. What is neither picture, caption nor mask is left out and told.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lora_diffusion.errors import InputError, printable
from trainers.data import archive
from trainers.data.caption_files import SIDECAR_ENDINGS, TABLE_NAME
from trainers.data.changes import FREE_BYTES, HIDDEN, Move
from trainers.data.names import base, ending
from trainers.data.scan import PICTURE_ENDINGS
from trainers.data.walk import is_left_out

MAX_BYTES = 16 << 30
_MAX_PART = 100
_UNWANTED = re.compile(r'[<>:"|?*\x00-\x1f]')
_PICTURES = "|".join(re.escape(each) for each in sorted(PICTURE_ENDINGS))
_CAPTIONS = "|".join(re.escape(each) for each in SIDECAR_ENDINGS)
_SHAPE = re.compile(
    rf"(?P<stem>.+?)(?P<rest>(?:\.mask|-masklabel)?(?:{_PICTURES})?(?:{_CAPTIONS})?)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass
class Intake:
    """What was taken in.

    Attributes:
        moves: from where the files wait, within the folder, to their names in it.
        pictures, captions: how many of each.
        left_out: names of what was not taken, the first few; `left_out_count` counts all.
    """

    moves: list[Move] = field(default_factory=list)
    pictures: int = 0
    captions: int = 0
    left_out: list[str] = field(default_factory=list)
    left_out_count: int = 0


def take_in(folder: Path, given: Sequence[tuple[Path, str]]) -> Intake:
    """Bring files into the folder's waiting room; `Changes.make` with the moves takes them in.

    Args:
        given: a file on this disk and the name that it came with, with folders and `/` perhaps;
            the files are moved, zips are unpacked and stay.

    Raises:
        InputError: a zip can't be used, the disk would be full, or nothing of use was given;
            nothing is left of what waited.
    """
    room = folder / HIDDEN / "incoming"
    try:
        room.mkdir(parents=True, exist_ok=True)
        waiting = Path(tempfile.mkdtemp(dir=room))
        try:
            return _Taking(folder, waiting).all(given)
        except BaseException:
            shutil.rmtree(waiting, ignore_errors=True)
            raise
    except OSError as error:
        raise InputError(
            f"{printable(folder)}: nothing can be added ({printable(error.strerror or error)}). "
            "Check your rights and the free space."
        ) from None


class _Taking:
    """One intake under way."""

    def __init__(self, folder: Path, waiting: Path) -> None:
        self._folder = folder
        self._waiting = waiting
        self._taken = {_stem(path.name).casefold() for path in folder.iterdir()}
        self._stems: dict[str, str] = {}
        self._names: set[str] = set()
        self._done = Intake()

    def all(self, given: Sequence[tuple[Path, str]]) -> Intake:
        room = shutil.disk_usage(self._folder).free - FREE_BYTES
        zips = [pair for pair in given if ending(pair[1]).lower() == ".zip"]
        loose = [pair for pair in given if pair not in zips]
        lead = _common_lead([name for _, name in loose])
        for path, name in loose:
            target = self._place(name, lead, "")
            if target is not None:
                shutil.move(path, target)
        for number, (path, _) in enumerate(zips):
            lead = _common_lead(archive.names(path, _everything))
            place = partial(self._place, lead=lead, mark=f"{number}/")
            room -= archive.unpack(path, _everything, place, max(0, min(MAX_BYTES, room)))
        if not self._done.moves:
            raise InputError(
                "There was no picture and no caption in it. Add PNG, JPEG or WebP files, or a zip "
                "of them."
            )
        return self._done

    def _place(self, name: str, lead: int, mark: str) -> Path | None:
        """Where a file waits; None where it is not taken."""
        parts = _parts(name)
        flat = "-".join(parts[lead:] or parts[-1:])
        if any(is_left_out(part) for part in parts) or not flat:
            return None  # what systems leave behind is not worth a word
        if base(flat).lower() == TABLE_NAME and not (self._folder / TABLE_NAME).exists():
            return self._note(TABLE_NAME)
        shape = _SHAPE.fullmatch(flat)
        if shape is None or not shape["rest"]:
            self._done.left_out_count += 1
            if len(self._done.left_out) < 5:
                self._done.left_out.append(printable(name, 80))
            return None
        stem = self._free_stem(mark + shape["stem"], shape["stem"])
        target = self._note(stem + shape["rest"])
        if target is not None:
            is_picture = ending(flat).lower() in PICTURE_ENDINGS
            self._done.pictures += is_picture
            self._done.captions += not is_picture
        return target

    def _note(self, name: str) -> Path | None:
        target = self._waiting / name
        if name in self._names:  # twice in one zip
            return None
        self._names.add(name)
        self._done.moves.append(Move(target.relative_to(self._folder).as_posix(), name))
        return target

    def _free_stem(self, key: str, stem: str) -> str:
        """The stem itself, or with a number; the same for all that came under that stem."""
        if key not in self._stems:
            number, free = 1, stem
            while free.casefold() in self._taken:
                number += 1
                free = f"{stem}-{number}"
            self._taken.add(free.casefold())
            self._stems[key] = free
        return self._stems[key]


def _is_wanted(parts: Sequence[str]) -> bool:
    shape = _SHAPE.fullmatch(parts[-1])
    return bool(shape and shape["rest"]) and not any(is_left_out(part) for part in parts)


def _everything(_name: str) -> bool:
    return True


def _parts(name: str) -> list[str]:
    """A name's parts made harmless: no way up or out, nothing that a disk refuses."""
    parts = []
    for part in name.replace("\\", "/").split("/"):
        clean = _UNWANTED.sub("_", printable(part, 1_000)).strip(" .") if part[:1] != "." else part
        if part not in ("", ".", "..") and clean:
            own = ending(clean)[-20:]
            parts.append(clean if len(clean) <= _MAX_PART else clean[: _MAX_PART - len(own)] + own)
    return parts


def _common_lead(names: Sequence[str]) -> int:
    """How many folders all names of pictures and captions begin with."""
    paths = [parts for name in names if (parts := _parts(name)) and _is_wanted(parts)]
    folders = [parts[:-1] for parts in paths]
    lead = 0
    while folders and all(len(f) > lead and f[lead] == folders[0][lead] for f in folders):
        lead += 1
    return lead


def _stem(name: str) -> str:
    shape = _SHAPE.fullmatch(name)
    return shape["stem"] if shape else name
