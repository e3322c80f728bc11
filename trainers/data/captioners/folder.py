"""Captioning a folder: what is still to do, and writing it so that a kill loses nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lora_diffusion.errors import InputError, printable
from trainers.data.caption_targets import CaptionTargets
from trainers.data.captioners.drafts import Finish, drafts
from trainers.data.captioners.journal import Journal
from trainers.data.captioners.keeping import Keeper, Made, Outcome, Task
from trainers.data.captioners.plugin import Captioner
from trainers.data.scan import find_all
from trainers.spec import DataSpec

_LOCK = ".captions.lock"


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
    targets = CaptionTargets(found, ending)
    tasks: list[Task] = []
    human = machine = 0
    for picture in found.pictures:
        if not isinstance(picture.path, Path):
            raise InputError(
                f"{printable(picture.path)}: captions can't be written into a tar. Unpack it first."
            )
        name = picture.name
        target = targets.of(name)
        path = folder / target.name
        content = _content(path) if target.is_own else b""
        if not target.source or (target.is_own and not content.strip()):
            tasks.append(Task(picture.path, name, path, None))
        elif target.is_own and journal.is_machines(name, content):
            machine += not redo
            if redo:
                tasks.append(Task(picture.path, name, path, None))
        else:
            human += not overwrite
            if overwrite:
                tasks.append(Task(picture.path, name, path, "\n".join(picture.captions)))
    return Plan(tasks, human, machine)


def caption_folder(
    keeper: Keeper,
    tasks: Sequence[Task],
    captioner: Captioner,
    finish: Finish,
    *,
    batch: int,
    cancelled: Callable[[], bool],
    on_progress: Callable[[int, int], None],
) -> Outcome:
    """Caption every task; whatever ends the work early, `keeper` gets what is done.

    Raises:
        InputError: the captioner can't go on, or the captions can't be kept.
    """
    by_picture = {task.picture: task for task in tasks}
    outcome = Outcome()
    waiting: list[Made] = []
    on_progress(0, len(tasks))
    made = drafts(captioner, list(by_picture), batch=batch, finish=finish, cancelled=cancelled)
    try:
        for number, draft in enumerate(made, start=1):
            task = by_picture[draft.picture]
            if draft.problem is None:
                waiting.append((task, draft))
            else:
                outcome.failed.append((task.name, draft.problem))
            if len(waiting) >= batch:
                keeper.keep(waiting, outcome)
                waiting = []
                on_progress(number, len(tasks))
    finally:
        keeper.keep(waiting, outcome)
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


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{printable(path)}: can't be read ({error.strerror}).") from None
