"""Where new captions are kept: beside the pictures, or as drafts in one file. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import write_text
from trainers.data.captioners.drafts import Draft
from trainers.data.captioners.journal import Entry, Journal, sha256
from trainers.data.captioners.plugin import Captioner


@dataclass(frozen=True)
class Task:
    """A picture to caption.

    Attributes:
        picture: the file.
        name: its path within the folder, with `/`.
        target: the caption file to write.
        replaces: the person's caption that is there, if any.
    """

    picture: Path
    name: str
    target: Path
    replaces: str | None


@dataclass
class Outcome:
    """What a run did; `failed` has a line a picture."""

    written: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Author:
    """Who writes: the captioner's name and settings, for the journal, and itself."""

    name: str
    settings: dict[str, Any]
    captioner: Captioner


Made = tuple[Task, Draft]


class Keeper(Protocol):
    """Takes captions as they are made."""

    def keep(self, made: Sequence[Made], outcome: Outcome) -> None:
        """Keep them and count them in `outcome`.

        Raises:
            InputError: the disk refused; those counted are kept.
        """


@dataclass(frozen=True)
class Beside:
    """Notes each caption in the folder's journal, then writes its file."""

    journal: Journal
    author: Author

    def keep(self, made: Sequence[Made], outcome: Outcome) -> None:
        """As `Keeper`."""
        if not made:
            return
        try:
            self.journal.add(
                Entry(
                    picture=task.name,
                    picture_sha256=sha256(task.picture.read_bytes()),
                    caption_sha256=sha256(file_text(draft.caption).encode()),
                    captioner=self.author.name,
                    model=self.author.captioner.model,
                    settings=self.author.settings,
                    replaced=task.replaces,
                )
                for task, draft in made
            )
            for task, draft in made:
                write_text(task.target, file_text(draft.caption))
                outcome.written += 1
        except OSError as error:
            raise InputError(
                f"{printable(self.journal.path.parent)}: a caption can't be written "
                f"({error.strerror}). Make room, then run the same command again: what is written "
                "stays."
            ) from None


class DraftFile:
    """One file of drafts: a line about their author, then a line a caption."""

    def __init__(self, path: Path, author: Author, pictures: int) -> None:
        """
        Raises:
            InputError: the file can't be written, or is there already.
        """
        self._path = path
        first = {
            "with": author.name,
            "model": author.captioner.model,
            "settings": author.settings,
            "pictures": pictures,
        }
        self._append([first], "xb")

    def keep(self, made: Sequence[Made], outcome: Outcome) -> None:
        """As `Keeper`."""
        if made:
            rows = [{"picture": task.name, "caption": draft.caption} for task, draft in made]
            self._append(rows, "ab")
            outcome.written += len(made)

    def _append(self, rows: Sequence[dict[str, Any]], mode: str) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        try:
            with self._path.open(mode) as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            raise InputError(
                f"{printable(self._path)}: exists already. Give another --drafts, or delete it."
            ) from None
        except OSError as error:
            raise InputError(
                f"{printable(self._path)}: the drafts can't be written "
                f"({printable(error.strerror)}). Give another --drafts."
            ) from None


@dataclass(frozen=True)
class Drafts:
    """What is in a file of drafts.

    Attributes:
        author: captioner's name, model and settings, as the journal has them.
        pictures: how many were to be captioned.
        captions: picture's name -> its draft.
    """

    author: Entry
    pictures: int
    captions: dict[str, str]


def read_drafts(path: Path) -> Drafts | None:
    """The drafts so far; None where there is no such file. Torn and foreign lines say nothing."""
    try:
        lines = path.read_bytes().splitlines()
        first = json.loads(lines[0])
        author = Entry("", "", "", str(first["with"]), str(first["model"]), dict(first["settings"]))
        pictures = int(first["pictures"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    captions: dict[str, str] = {}
    for line in lines[1:]:
        try:
            row = json.loads(line)
            name, caption = row["picture"], row["caption"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(name, str) and isinstance(caption, str):
            captions[name] = caption
    return Drafts(author, pictures, captions)


def file_text(caption: str) -> str:
    """A caption as the content of its file."""
    return caption + "\n"
