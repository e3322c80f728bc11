"""A captioner at work on an open folder: its own process, and drafts that wait for a decision."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from lora_diffusion.errors import InputError, printable
from trainers.data.captioners.journal import Journal, sha256
from trainers.data.captioners.keeping import Drafts, read_drafts
from trainers.data.changes import HIDDEN, Change
from ui import words
from ui.dataset.folder import OpenFolder
from ui.tasks import Task, Tasks

_MAX_TEXT = 2_000


class Drafting:
    """The drafts of one folder. They lie in `.studio` within it and survive a restart."""

    def __init__(self, opened: OpenFolder, tasks: Tasks) -> None:
        self._opened = opened
        self._tasks = tasks
        self._task: Task | None = None
        self._file = opened.path / HIDDEN / "drafts.jsonl"
        self._decided_file = opened.path / HIDDEN / "drafts.decided"
        self._read: tuple[object, Drafts | None] = (None, None)

    @property
    def running(self) -> bool:
        """Whether a captioner is at work."""
        return self._task is not None and self._task.state == "running"

    def waiting(self) -> dict[str, str]:
        """Picture's name -> the draft that waits."""
        drafts = self._drafts()
        if drafts is None:
            return {}
        decided = self._decided()
        here = self._opened.snapshot.pictures
        return {n: c for n, c in drafts.captions.items() if n in here and n not in decided}

    def start(self, asked: dict[str, Any]) -> Task:
        """Begin. `which` is `missing` or `all`; drafts that still wait are given up.

        Raises:
            InputError: one is at work already, or there is nothing to caption.
        """
        if self.running:
            raise InputError("A captioner is at work here already. Cancel it first.")
        name = str(asked.get("captioner") or "")
        if not name:
            raise InputError("Choose a captioner.")
        verb = ["caption", str(self._opened.path), f"--with={name}", f"--drafts={self._file}"]
        if asked.get("which") == "all":
            verb += ["--overwrite", "--redo"]
        elif all(map(self._opened.snapshot.has_caption, self._opened.snapshot.pictures)):
            raise InputError("Every picture has a caption. Choose all pictures to see others.")
        for flag in ("trigger", "prefix", "suffix"):
            if text := str(asked.get(flag) or "")[:_MAX_TEXT]:
                verb.append(f"--{flag}={text}")
        verb += _settings(asked.get("settings"))
        self._forget()
        self._file.parent.mkdir(exist_ok=True)
        self._task = self._tasks.start("Captioning", [*verb, "--json"])
        return self._task

    def cancel(self) -> None:
        """Stop the captioner; the drafts so far stay."""
        if self._task is not None:
            self._tasks.cancel(self._task.id)

    def told(self) -> dict[str, Any] | None:
        """How it goes, for the page; None where nothing was begun."""
        task = self._task
        if task is None:
            return None
        drafts = self._drafts()
        done, total = (len(drafts.captions), drafts.pictures) if drafts else (0, 0)
        text = f"{done:,} of {words.counted(total, 'picture')}" if total else printable(task.text)
        failed = task.result.get("failed") if task.state == "done" else None
        return {
            "state": task.state,
            "text": text or "Loading the captioner",
            "share": done / total if total else None,
            "error": task.error,
            "failed": len(failed) if isinstance(failed, list) else 0,
            "number": id(task),
        }

    def keep(self, names: Iterable[str]) -> Change:
        """Write drafts beside their pictures, as a change that can be undone."""
        waiting, drafts = self.waiting(), self._drafts()
        texts = {name: waiting[name] for name in names if name in waiting}
        if not texts or drafts is None:
            raise InputError("There is no draft to keep.")
        steps = self._opened.caption_steps(texts)
        by_target = {self._opened.target_of(name).name: name for name in texts}
        journal = Journal(self._opened.path)
        if steps:
            entries = []
            for step in steps:
                name = by_target[step.name]
                replaced = self._opened.snapshot.caption(name) or None
                picture = self._opened.file_of(name).read_bytes()
                entries.append(
                    replace(
                        drafts.author,
                        picture=name,
                        picture_sha256=sha256(picture),
                        caption_sha256=sha256(step.content),
                        replaced=replaced,
                    )
                )
            journal.add(entries)
            title = f"Kept {words.counted(len(steps), 'draft')} by {drafts.author.captioner}"
            made = self._opened.change(title, steps)
        self._decide(texts)
        if not steps:
            raise InputError("These captions say the same as the drafts already.")
        return made

    def discard(self, names: Iterable[str]) -> int:
        """Give drafts up; how many."""
        waiting = self.waiting()
        given_up = [name for name in names if name in waiting]
        self._decide(given_up)
        return len(given_up)

    def _drafts(self) -> Drafts | None:
        try:
            stat = self._file.stat()
        except OSError:
            return None
        state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if self._read[0] != state:
            self._read = (state, read_drafts(self._file))
        return self._read[1]

    def _decided(self) -> set[str]:
        try:
            lines = self._decided_file.read_text("utf-8").splitlines()
        except (OSError, ValueError):
            return set()
        found = set()
        for line in lines:
            with suppress(ValueError):
                found.add(str(json.loads(line)))
        return found

    def _decide(self, names: Iterable[str]) -> None:
        with self._decided_file.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(name) + "\n" for name in names)

    def _forget(self) -> None:
        for file in (self._file, self._decided_file):
            file.unlink(missing_ok=True)


def _settings(given: object) -> list[str]:
    """A captioner's own settings as flags; what they may be is the captioner's to say."""
    verb = []
    for key, value in given.items() if isinstance(given, dict) else ():
        flag = str(key).replace("_", "-")
        if not flag.replace("-", "").isalnum() or value is None or value == "":
            continue
        if isinstance(value, bool):
            verb.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            verb.append(f"--{flag}={str(value)[:_MAX_TEXT]}")
    return verb
