"""What was found out about picture files, kept on disk: a second look opens only what changed.

A file is known by its path, size and time of change. Files that can't be used are not kept, so
that they are looked at anew. The index is a help and never needed: where it can't be written, or
is damaged, everything is examined again. No torch.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainers.data.examine import Facts
from trainers.data.user_cache import user_cache
from trainers.data.walk import Stat

_VERSION = 1  # rises when what is kept, or how it is found out, changes
_BATCH = 1_000
_WAIT_S = 10
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (
    name BLOB PRIMARY KEY, bytes INTEGER, mtime_ns INTEGER, digest BLOB, format TEXT, mode TEXT,
    height INTEGER, width INTEGER, frames INTEGER, turned INTEGER, flat INTEGER, look BLOB,
    colours BLOB
) WITHOUT ROWID
"""


def default_folder() -> Path:
    """Where indexes are kept unless told otherwise."""
    return user_cache() / "index"


class Index:
    """The index of one dataset.

    Args:
        folder: of all indexes; made if missing.
        roots: the dataset's folders, which name the index.
    """

    def __init__(self, folder: Path, roots: Iterable[Path]) -> None:
        key = "\0".join(str(root.resolve()) for root in roots)
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:24]
        self.path = folder / f"{name}-{_VERSION}.sqlite"

    def read(self, stats: Mapping[str, Stat]) -> dict[str, Facts]:
        """Picture's name -> facts, of those whose size and time are as they were."""
        known: dict[str, Facts] = {}
        try:
            database = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=_WAIT_S)
            with database:
                for row in database.execute("SELECT * FROM facts"):
                    name = _from_blob(row[0])
                    stat = stats.get(name)
                    if stat and (stat.size_bytes, stat.mtime_ns) == (row[1], row[2]):
                        known[name] = _facts(row)
            database.close()
        except sqlite3.Error:
            return {}
        return known

    def write(self, found: Mapping[str, Facts], stats: Mapping[str, Stat]) -> bool:
        """Keep what was found, and forget pictures that are not in `stats`; whether it worked."""
        rows = [_row(name, stats[name], facts) for name, facts in found.items() if not facts.error]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self.path, timeout=_WAIT_S)
            try:
                with database:
                    database.execute(_SCHEMA)
                    for first in range(0, len(rows), _BATCH):
                        database.executemany(
                            f"INSERT OR REPLACE INTO facts VALUES ({', '.join('?' * 13)})",
                            rows[first : first + _BATCH],
                        )
                    kept = {_to_blob(name) for name in stats}
                    gone = [
                        (name,)
                        for (name,) in database.execute("SELECT name FROM facts")
                        if name not in kept
                    ]
                    database.executemany("DELETE FROM facts WHERE name = ?", gone)
            finally:
                database.close()
        except sqlite3.DatabaseError:
            self.path.unlink(missing_ok=True)
            return False
        except OSError:
            return False
        return True


def _row(name: str, stat: Stat, facts: Facts) -> tuple[object, ...]:
    return (
        _to_blob(name),
        stat.size_bytes,
        stat.mtime_ns,
        bytes.fromhex(facts.digest),
        facts.format,
        facts.mode,
        *facts.size_px,
        facts.frames,
        facts.is_turned,
        facts.is_flat,
        facts.look.to_bytes(8, "big"),  # SQLite's integers have a sign
        facts.colours,
    )


def _facts(row: tuple[bytes | str | int, ...]) -> Facts:
    _, _, _, digest, format, mode, height, width, frames, turned, flat, look, colours = row
    assert isinstance(digest, bytes) and isinstance(look, bytes) and isinstance(colours, bytes)
    return Facts(
        digest.hex(),
        format=str(format),
        mode=str(mode),
        size_px=(int(height), int(width)),
        frames=int(frames),
        is_turned=bool(turned),
        is_flat=bool(flat),
        look=int.from_bytes(look, "big"),
        colours=colours,
    )


def _to_blob(name: str) -> bytes:
    """File names need not be text; SQLite's must."""
    return name.encode("utf-8", "surrogateescape")


def _from_blob(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
