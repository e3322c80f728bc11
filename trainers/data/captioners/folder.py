"""Captioning a folder: what is still to do, and writing it so that a kill loses nothing."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import write_text
from trainers.data.caption_files import sidecar_names
from trainers.data.captioners.drafts import Draft, Finish, drafts
from trainers.data.captioners.journal import Entry, Journal, sha256
from trainers.data.captioners.plugin import Captioner
from trainers.data.scan import find_all
from trainers.spec import DataSpec

_LOCK = ".captions.lock"


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


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        tasks: pictures to caption, in order.
        kept_human: pictures that keep a person's caption.
        kept_machine: pictures that keep the caption a machine wrote.
    """

    tasks: list[Task]
    kept_human: int
    kept_machine: int

    @property
    def pictures(self) -> int:
        return len(self.tasks) + self.kept_human + self.kept_machine


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


def plan(folder: Path, journal: Journal, *, overwrite: bool, redo: bool, ending: str) -> Plan:
    """Which pictures of `folder` want a caption.

    A caption file with nothing but spaces counts as none.

    Args:
        overwrite: also those with a person's caption.
        redo: also those with a machine's.
        ending: of new caption files.

    Raises:
        InputError: no such folder, no pictures, or a caption that can't be read.
    """
    found = find_all(DataSpec(folder=str(folder)))
    stems = Counter(_stem(picture.name) for picture in found.pictures)
    claims = Counter(origin.captions_from for origin in found.origins.values())
    tasks: list[Task] = []
    human = machine = 0
    for picture in found.pictures:
        if not isinstance(picture.path, Path):
            raise InputError(
                f"{printable(picture.path)}: captions can't be written into a tar. Unpack it first."
            )
        name, source = picture.name, found.origins[picture.name].captions_from
        own = claims[source] == 1 and source in sidecar_names(name)
        content = _content(folder / source) if own else b""
        if own and not content.strip():
            tasks.append(Task(picture.path, name, folder / source, None))
        elif not source:
            base = name if stems[_stem(name)] > 1 else _stem(name)
            tasks.append(Task(picture.path, name, folder / (base + ending), None))
        elif own and journal.is_machines(name, content):
            machine += not redo
            if redo:
                tasks.append(Task(picture.path, name, folder / source, None))
        else:
            human += not overwrite
            if overwrite:
                target = folder / (source if own else name + ending)
                tasks.append(Task(picture.path, name, target, "\n".join(picture.captions)))
    return Plan(tasks, human, machine)


def caption_folder(
    journal: Journal,
    tasks: Sequence[Task],
    author: Author,
    finish: Finish,
    *,
    batch: int,
    cancelled: Callable[[], bool],
    on_progress: Callable[[int, int], None],
) -> Outcome:
    """Caption every task and write it; whatever ends the work early, what is done is written.

    Raises:
        InputError: the captioner can't go on, or the folder can't be written.
    """
    by_picture = {task.picture: task for task in tasks}
    outcome = Outcome()
    waiting: list[tuple[Task, Draft]] = []
    on_progress(0, len(tasks))
    made = drafts(
        author.captioner, list(by_picture), batch=batch, finish=finish, cancelled=cancelled
    )
    try:
        for number, draft in enumerate(made, start=1):
            task = by_picture[draft.picture]
            if draft.problem is None:
                waiting.append((task, draft))
            else:
                outcome.failed.append((task.name, draft.problem))
            if len(waiting) >= batch:
                _write(journal, author, waiting, outcome)
                on_progress(number, len(tasks))
    finally:
        _write(journal, author, waiting, outcome)
    on_progress(outcome.written + len(outcome.failed), len(tasks))
    return outcome


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other captioning runs out of `folder`.

    Raises:
        InputError: one is at work there, or the folder can't be written to.
    """
    if not folder.is_dir():
        raise InputError(f"{printable(folder)}: there is no such folder. Check the spelling.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{printable(folder)}: captions can't be written there ({error.strerror}). Give "
            "yourself the right to write, or copy the folder."
        ) from None
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{printable(folder)}: another captioning run is at work there. Wait for it or stop it."
        ) from None
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            (folder / _LOCK).unlink()


def _write(
    journal: Journal, author: Author, waiting: list[tuple[Task, Draft]], outcome: Outcome
) -> None:
    """Note the captions in the journal, then write their files; empties `waiting`."""
    if not waiting:
        return
    done, waiting[:] = list(waiting), []
    try:
        journal.add(
            Entry(
                picture=task.name,
                picture_sha256=sha256(task.picture.read_bytes()),
                caption_sha256=sha256(_file_text(draft).encode()),
                captioner=author.name,
                model=author.captioner.model,
                settings=author.settings,
                replaced=task.replaces,
            )
            for task, draft in done
        )
        for task, draft in done:
            write_text(task.target, _file_text(draft))
            outcome.written += 1
    except OSError as error:
        raise InputError(
            f"{printable(journal.path.parent)}: a caption can't be written ({error.strerror}). "
            "Make room, then run the same command again: what is written stays."
        ) from None


def _stem(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _file_text(draft: Draft) -> str:
    return draft.caption + "\n"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{printable(path)}: can't be read ({error.strerror}).") from None
