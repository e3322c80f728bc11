"""The library's index: one SQLite file for a folder of adapters. No torch.

A file is looked at again only where its size or time has changed, and read in full only where its
bytes have: a copied or renamed file is known by its hash. What was read is committed each second
and when an update is stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats.describe import describe
from lora_diffusion.formats.hash import file_hashes
from trainers.data.user_cache import user_cache
from trainers.library import sidecars
from trainers.library.cards import Card, Entry, broken_entry, dressed, make_entry

VERSION = 1
_CARDS: TypeAdapter[Card] = TypeAdapter(Card)
_MAX_FILES = 200_000
_COMMIT_SECONDS = 1.0
_RUN_MARK, _CHECKPOINTS = "events.jsonl", "checkpoints"
_WORD = re.compile(r"\w+")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
  file TEXT PRIMARY KEY, size INTEGER, changed_ns INTEGER, beside TEXT, sha256 TEXT,
  arch TEXT, kind TEXT, broken INTEGER, own TEXT, card TEXT, metadata TEXT, thumbnail TEXT);
CREATE INDEX IF NOT EXISTS by_sha256 ON files (sha256);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (
  file UNINDEXED, title, name, triggers, base, tags, description, kind,
  tokenize = "unicode61 remove_diacritics 2");
"""
# How much a word counts where it stands, in the order of the columns of `words`.
_RANKING = "bm25(words, 0, 8, 8, 10, 3, 2, 1, 3)"
OnFile = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Changes:
    """What an update did: how many files it read, knew by their hash, and found gone."""

    read: int
    known: int
    gone: int
    total: int


class Library:
    """A folder of adapters and its index.

    Args:
        folder: the adapters' folder; folders within it belong to it.
        file: the index; None keeps it in `user_cache()`.

    Raises:
        InputError: no such folder, or an index that can't be used.
    """

    def __init__(self, folder: Path, file: Path | None = None) -> None:
        self.folder = folder.expanduser().resolve()
        if not self.folder.is_dir():
            raise InputError(f"{printable(folder)}: there is no such folder. Check the path.")
        self.file = file or _usual_place(self.folder)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] not in (0, VERSION):
                connection.executescript("DROP TABLE files; DROP TABLE words;")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {VERSION}")

    def update(self, on_file: OnFile = lambda done, total, file: None) -> Changes:
        """Bring the index up to date with the folder.

        Args:
            on_file: called with (files looked at, of all, this one's name).

        Raises:
            InputError: the folder or the index can't be read.
        """
        found = list(_adapters(self.folder))
        read = known = 0
        with self._open() as connection:
            before = {
                row["file"]: row
                for row in connection.execute("SELECT file, size, changed_ns, beside FROM files")
            }
            committed = time.monotonic()
            try:
                for done, name in enumerate(found):
                    path = self.folder / name
                    try:
                        stat = path.stat()
                        now = (stat.st_size, stat.st_mtime_ns, sidecars.stamp(path))
                    except OSError:
                        continue  # gone since the walk; the next update forgets it
                    old = before.get(name)
                    if old is None or (old["size"], old["changed_ns"], old["beside"]) != now:
                        was_known = self._look(connection, name, *now)
                        known, read = known + was_known, read + (not was_known)
                    if time.monotonic() - committed > _COMMIT_SECONDS:
                        connection.commit()
                        committed = time.monotonic()
                    on_file(done + 1, len(found), name)
            finally:
                connection.commit()
            gone = sorted(before.keys() - set(found))
            for name in gone:
                _forget(connection, name)
        return Changes(read, known, len(gone), len(found))

    def cards(
        self, words: str = "", *, arch: str | None = None, kind: str | None = None
    ) -> list[Card]:
        """The cards that have all of `words`, best first; without words all, by title.

        Each word may also be the beginning of one. Files that can't be used come last.
        """
        wanted, values = ["1"], []
        for column, value in (("arch", arch), ("kind", kind)):
            if value is not None:
                wanted.append(f"files.{column} = ?")
                values.append(value)
        sought = " ".join(f'"{word}"*' for word in _WORD.findall(words))
        if words.strip() and not sought:
            return []
        if sought:
            query = (
                "SELECT card FROM words JOIN files USING (file) WHERE words MATCH ? AND "
                f"{' AND '.join(wanted)} ORDER BY broken, {_RANKING}, file"
            )
            values.insert(0, sought)
        else:
            query = f"SELECT card FROM files WHERE {' AND '.join(wanted)} ORDER BY broken, file"
        with self._open() as connection:
            found = [_card(row["card"]) for row in connection.execute(query, values)]
        if not sought:
            found.sort(key=lambda card: (bool(card.broken), card.title.casefold(), card.file))
        return found

    def metadata(self, file: str) -> dict[str, str]:
        """The metadata inside a file, as it was when indexed.

        Raises:
            InputError: the index has no such file.
        """
        found: dict[str, str] = json.loads(self._row(file)["metadata"])
        return found

    def thumbnail(self, file: str) -> str:
        """A data URL, or the path of a picture beside the file; "" for none.

        Raises:
            InputError: the index has no such file.
        """
        own = str(self._row(file)["thumbnail"])
        beside = sidecars.preview_of(self.folder / file)
        return str(beside) if beside else own

    def by_hash(self, digest: str) -> list[Card]:
        """The cards whose SHA-256, AutoV2 or AutoV3 is `digest`, in any case."""
        sought = digest.lower()
        return [c for c in self.cards() if sought and sought in (c.sha256, c.autov2, c.autov3)]

    def _row(self, file: str) -> sqlite3.Row:
        with self._open() as connection:
            row = connection.execute("SELECT * FROM files WHERE file = ?", (file,)).fetchone()
        if row is None:
            raise InputError(f"The library has no file '{printable(file)}'. Bring it up to date.")
        found: sqlite3.Row = row
        return found

    def _look(
        self, connection: sqlite3.Connection, name: str, size: int, changed_ns: int, beside: str
    ) -> bool:
        """Index one file; whether its bytes were known already."""
        path = self.folder / name
        known = self._known(connection, name, size, changed_ns)
        if known is not None:
            entry = known
        else:
            try:
                entry = make_entry(name, size, changed_ns, describe(path))
            except InputError as error:
                entry = broken_entry(name, size, changed_ns, str(error))
        own = replace(
            entry.card, file=name, name=Path(name).stem, size_bytes=size, changed_ns=changed_ns
        )
        if own.title == entry.card.name:  # it was renamed, and has no title of its own
            own = replace(own, title=own.name)
        side = sidecars.read(path)
        card = dressed(own, side)
        _forget(connection, name)
        connection.execute(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                name, size, changed_ns, beside, card.sha256, card.arch, card.kind,
                bool(card.broken), json.dumps(asdict(own)), json.dumps(asdict(card)),
                json.dumps(dict(entry.metadata)), entry.thumbnail,
            ),
        )  # fmt: skip
        connection.execute(
            "INSERT INTO words VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                name, card.title, name, " ".join(card.trigger_words),
                f"{card.base} {card.arch or ''}", " ".join(tag for tag, _ in card.tags),
                f"{card.description} {card.notes}", card.kind,
            ),
        )  # fmt: skip
        return known is not None

    def _known(
        self, connection: sqlite3.Connection, name: str, size: int, changed_ns: int
    ) -> Entry | None:
        """What was read of the same bytes: of this file unchanged, or of any with its hash."""
        rows = connection.execute("SELECT * FROM files WHERE size = ?", (size,)).fetchall()
        same = [row for row in rows if (row["file"], row["changed_ns"]) == (name, changed_ns)]
        usable = [row for row in rows if row["sha256"]]
        if not same and usable:
            try:
                digest = file_hashes(self.folder / name).sha256
            except (InputError, OSError):
                return None
            same = [row for row in usable if row["sha256"] == digest]
        if not same:
            return None
        row = same[0]
        return Entry(_card(row["own"]), json.loads(row["metadata"]), row["thumbnail"])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.file, timeout=30)) as connection:
                connection.row_factory = sqlite3.Row
                with connection:
                    yield connection
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{printable(self.file)}: the index can't be used ({printable(error)}). Delete it; "
                "it is made anew."
            ) from None


def _usual_place(folder: Path) -> Path:
    digest = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return user_cache() / "library" / f"{digest}.sqlite"


def _adapters(folder: Path) -> Iterator[str]:
    """Names of the .safetensors files in a folder and those within it, in order.

    Hidden files and a training run's checkpoints are left out; links to folders aren't followed.
    """
    seen = 0
    for parent, folders, files in os.walk(folder):
        is_run = _RUN_MARK in files
        folders[:] = sorted(
            name for name in folders if name[0] != "." and not (is_run and name == _CHECKPOINTS)
        )
        seen += len(files)
        if seen > _MAX_FILES:
            raise InputError(
                f"{printable(folder)}: holds more than {_MAX_FILES:,} files. Choose the folder "
                "that holds the adapters."
            )
        for name in sorted(files):
            if name[0] != "." and name.lower().endswith(".safetensors"):
                yield Path(parent, name).relative_to(folder).as_posix()


def _forget(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("DELETE FROM files WHERE file = ?", (name,))
    connection.execute("DELETE FROM words WHERE file = ?", (name,))


def _card(text: str) -> Card:
    return _CARDS.validate_json(text)
