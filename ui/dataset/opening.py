"""The folders that are open in the studio, and how pictures come into them."""

from __future__ import annotations

import contextlib
import hmac
import re
import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from trainers.data.changes import Changes
from trainers.data.intake import Intake, take_in
from ui import words
from ui.dataset.drafting import Drafting
from ui.dataset.folder import OpenFolder
from ui.dataset.looking import Looking
from ui.gate.uploads import Uploads
from ui.tasks import Tasks

DEMO = "bundled:demo_character"
_DEMO_SIDE_PX = 64
_MAX_OPEN = 8


@dataclass(frozen=True)
class Opened:
    """One open folder, and what works on it."""

    key: str
    folder: OpenFolder
    looking: Looking
    drafting: Drafting


class Opening:
    """Opens folders and finds them again by a key that only this launch makes."""

    def __init__(
        self, datasets: Path, tasks: Tasks, uploads: Uploads, index_folder: Path | None = None
    ) -> None:
        self._datasets = datasets
        self._tasks = tasks
        self._uploads = uploads
        self._index_folder = index_folder
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Opened] = OrderedDict()

    def open(self, location: str) -> Opened:
        """The folder at a path on this computer; a bundled one is copied first.

        Raises:
            InputError: no such folder, or no pictures in it.
        """
        typed = location.strip()
        if not typed:
            raise InputError("Type the folder that holds your pictures.")
        if typed.startswith(bundled.PREFIX):
            return self._demo(typed)
        folder = Path(typed).expanduser()
        if not folder.is_absolute():
            raise InputError(f"{printable(typed)}: type the whole path, from / on.")
        try:
            is_there = folder.is_dir()
        except (OSError, ValueError):
            is_there = False
        if not is_there:
            raise InputError(f"{printable(typed)}: there is no such folder. Check the spelling.")
        return self._opened(folder.resolve())

    def find(self, key: object) -> Opened:
        """An open folder by its key.

        Raises:
            InputError: it is not open.
        """
        found = self._open.get(key) if isinstance(key, str) else None
        if found is None:
            raise InputError("That folder is no longer open. Open it again.")
        return found

    def add(
        self, key: object, files: Sequence[tuple[str, str]], name: str
    ) -> tuple[Opened, Intake]:
        """Take uploaded files into an open folder, or into a new one called `name`.

        Args:
            files: upload's id, and the path that the file had where it came from.
        """
        given = [(self._uploads.find(picked).path, path) for picked, path in files]
        opened = self.find(key) if key else None
        folder = opened.folder.path if opened else self._fresh(name)
        try:
            taken = take_in(folder, given)
            title = f"Added {words.counted(taken.pictures, 'picture')}"
            if opened:
                opened.folder.change(title, taken.moves)
                return opened, taken
            Changes(folder).make(title, taken.moves)
            return self._opened(folder), taken
        except InputError:
            if not opened:
                shutil.rmtree(folder, ignore_errors=True)  # made a moment ago, for these files
            raise
        finally:
            for picked, _ in files:
                self._uploads.drop(picked)

    def _demo(self, location: str) -> Opened:
        """The demo's pictures, copied so that they can be changed; the copy is used again."""
        source = bundled.resolve(location)
        folder = self._datasets / source.name.replace("_", "-")
        if not folder.exists():
            partial = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(partial, ignore_errors=True)
            partial.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, partial)
            partial.rename(folder)
            opened = self._opened(folder)
            opened.folder.side_px = _DEMO_SIDE_PX
            opened.folder.refresh()
            return opened
        return self._opened(folder)

    def _opened(self, folder: Path) -> Opened:
        key = hmac.new(self._secret, str(folder).encode("utf-8", "surrogateescape"), sha256)
        picked = key.hexdigest()[:24]
        if picked not in self._open:
            with contextlib.suppress(InputError):  # read-only, or at work elsewhere: next time
                Changes(folder).prune()
        with self._lock:
            found = self._open.get(picked)
            if found is None:
                opened = OpenFolder(folder, self._index_folder)
                found = Opened(
                    picked, opened, Looking(opened, self._tasks), Drafting(opened, self._tasks)
                )
                self._open[picked] = found
                while len(self._open) > _MAX_OPEN:
                    self._open.popitem(last=False)
            else:
                found.folder.refresh()
            self._open.move_to_end(picked)
        return found

    def _fresh(self, name: str) -> Path:
        """A new folder for added pictures."""
        stem = re.sub(r"[^\w .()-]+", "-", printable(name, 60)).strip(" .-") or "pictures"
        self._datasets.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            folder = self._datasets / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
        raise InputError(f"There are too many folders called '{stem}'. Choose another name.")
