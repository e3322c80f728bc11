"""Encoded pictures and captions, kept in memory or on disk under keys that say what they are.

A key is a hash of everything that the encoded numbers follow from, so that nothing stale is ever
found: other bytes, weights or settings have other keys, and a file's date is in none.

On disk, records lie in shards of some dozens, each a safetensors file whose tensors are called
`KEY/FIELD`; `index.json` lists the shards' keys, and is made anew from their headers where it is
missing or old. A shard is written beside and renamed, so that it is whole or not there. Processes
that fill the same cache take shards in turns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import write_text
from lora_diffusion.formats.container import write_any_tensors
from trainers.data.source import Source
from trainers.machine.team import ALONE, Team

FORMAT = 1
SHARD_RECORDS = 64
_LOCKS = 256  # lock files at most
_CHUNK_BYTES = 1 << 20
_WAIT_SECONDS = 0.5
_OPEN_SHARDS = 64

Record = Mapping[str, Tensor]
Job = TypeVar("Job")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LatentKey:
    """All that an encoded picture follows from.

    Attributes:
        picture, vae: SHA-256 of the picture's file and of the VAE's weights.
        vae_dtype: number format in which the VAE works.
        mask: SHA-256 of its mask's file, `alpha`, or empty where no mask is used.
        box, height_px, width_px: what is kept of the upright picture, and its size after that.
        flipped, brightness, contrast, saturation: as in `augment.Look`.
        decoding, resampling: by which rules the file becomes RGB, and the filter that scales it.
        format: version of the records.
    """

    picture: str
    vae: str
    vae_dtype: str
    mask: str
    box: tuple[float, float, float, float]
    height_px: int
    width_px: int
    flipped: bool
    brightness: float
    contrast: float
    saturation: float
    decoding: str
    resampling: str
    format: int = FORMAT


@dataclass(frozen=True)
class PromptKey:
    """All that an encoded prompt follows from.

    Attributes:
        text: the prompt.
        encoders: SHA-256 of the text encoders' and the tokenizers' files.
        dtype: number format in which they work.
        clip_skip: as in the settings.
        chunks: of 75 tokens, that it is padded to.
        format: version of the records.
    """

    text: str
    encoders: str
    dtype: str
    clip_skip: int
    chunks: int
    format: int = FORMAT


def digest(key: LatentKey | PromptKey) -> str:
    """A key as 64 hexadecimal digits."""
    told = json.dumps({"kind": type(key).__name__, **asdict(key)}, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def file_digest(path: Source) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises:
        InputError: it can't be read.
    """
    try:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()
    except OSError as error:
        raise InputError(f"{printable(path)}: can't be read ({error.strerror}).") from None


class Store(Protocol[Job]):
    """Records by key."""

    def fill(
        self,
        wanted: Mapping[str, Job],
        make: Callable[[Sequence[Job]], Sequence[Record]],
        on_progress: Progress,
        team: Team = ALONE,
    ) -> None:
        """Make and keep the records of those keys of `wanted` that are not there yet.

        Each process of `team` makes its share, and all have all of them after it.

        make: from some jobs to their records, in order.
        on_progress: called with (keys that are there, of all); what it raises ends the work.
        """

    def read(self, key: str) -> Record:
        """One record, on the CPU.

        Raises:
            KeyError: `fill` was never asked for it.
        """


class MemoryStore(Generic[Job]):
    """All records in memory."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def fill(
        self,
        wanted: Mapping[str, Job],
        make: Callable[[Sequence[Job]], Sequence[Record]],
        on_progress: Progress,
        team: Team = ALONE,
    ) -> None:
        missing = [key for key in wanted if key not in self._records]
        own = missing[team.own(len(missing))]
        done, total = len(wanted) - len(missing), len(wanted) - len(missing) + len(own)
        on_progress(done, total)
        for group in _groups(own, SHARD_RECORDS):
            made = make([wanted[key] for key in group])
            self._records.update(zip(group, made, strict=True))
            done += len(group)
            on_progress(done, total)
        for records in team.gather({key: self._records[key] for key in own}):
            self._records.update(records)

    def read(self, key: str) -> Record:
        return self._records[key]


class ShardStore(Generic[Job]):
    """Records in shards on disk, read through the system's page cache as they are needed.

    Args:
        folder: made if missing; of this cache alone.
        shard_records: most records in a shard.
    """

    def __init__(self, folder: Path, shard_records: int = SHARD_RECORDS) -> None:
        self.folder = folder
        self.shard_records = shard_records
        self._shard_of: dict[str, str] = {}
        self._keys_of: dict[str, list[str]] = {}
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(self._opened)
        try:
            (folder / "locks").mkdir(parents=True, exist_ok=True)
            self._read_index()
            self._look_around()
        except OSError as error:
            raise self._unusable(error) from None

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of `keys` that are not there."""
        return [key for key in keys if key not in self._shard_of]

    def fill(
        self,
        wanted: Mapping[str, Job],
        make: Callable[[Sequence[Job]], Sequence[Record]],
        on_progress: Progress,
        team: Team = ALONE,
    ) -> None:
        keys = list(wanted)

        def tell() -> None:
            on_progress(len(keys) - len(self.missing(keys)), len(keys))

        tell()
        every = list(_groups(keys, self.shard_records))
        is_new = bool(self.missing(keys))
        self._make_groups(every[team.own(len(every))], wanted, make, tell)
        team.agree()
        self._look_around()
        self._make_groups(every, wanted, make, tell)  # none, where all see this folder
        if is_new and team.is_main:
            self._write_index()

    def _make_groups(
        self,
        groups: Sequence[Sequence[str]],
        wanted: Mapping[str, Job],
        make: Callable[[Sequence[Job]], Sequence[Record]],
        tell: Callable[[], None],
    ) -> None:
        """Complete those groups, each once among all processes that are here."""
        groups = [group for group in groups if self.missing(group)]
        while groups:
            taken_by_others = []
            for group in groups:
                try:
                    with self._lock(group).acquire(timeout=0):
                        self._complete(group, wanted, make)
                except Timeout:
                    taken_by_others.append(group)
                except OSError as error:
                    raise self._unusable(error) from None
                tell()
            groups = taken_by_others
            if groups:  # wait for one of them
                try:
                    self._lock(groups[0]).acquire(timeout=_WAIT_SECONDS).lock.release()
                except Timeout:
                    tell()

    def read(self, key: str) -> Record:
        shard = self._shard_of[key]
        file, fields = self._open(shard)
        return {name: file.get_tensor(f"{key}/{name}") for name in fields[key]}

    def _complete(
        self,
        group: Sequence[str],
        wanted: Mapping[str, Job],
        make: Callable[[Sequence[Job]], Sequence[Record]],
    ) -> None:
        self._look_around()  # another process may have been here
        missing = self.missing(group)
        if not missing:
            return
        records = make([wanted[key] for key in missing])
        tensors = {
            f"{key}/{name}": tensor.contiguous()
            for key, record in zip(missing, records, strict=True)
            for name, tensor in record.items()
        }
        name = hashlib.sha256("".join(missing).encode()).hexdigest()[:32] + ".safetensors"
        write_any_tensors(self.folder / name, tensors, {})
        self._add(name, missing)

    def _lock(self, group: Sequence[str]) -> FileLock:
        number = int(hashlib.sha256("".join(group).encode()).hexdigest(), 16) % _LOCKS
        return FileLock(self.folder / "locks" / f"{number:03d}.lock")

    def _look_around(self) -> None:
        """Take in the shards that are there and not known yet; damaged ones are removed."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._keys_of:
                continue
            try:
                with safe_open(path, "pt") as file:
                    names = list(file.keys())
            except (SafetensorError, FileNotFoundError):
                path.unlink(missing_ok=True)
                continue
            self._add(path.name, sorted({name.partition("/")[0] for name in names}))

    def _add(self, shard: str, keys: Sequence[str]) -> None:
        self._keys_of[shard] = list(keys)
        self._shard_of.update(dict.fromkeys(keys, shard))

    @property
    def _index(self) -> Path:
        return self.folder / "index.json"

    def _read_index(self) -> None:
        try:
            stored = json.loads(self._index.read_text(encoding="utf-8"))
            shards: dict[str, Any] = stored["shards"] if stored["format"] == FORMAT else {}
            for name, entry in shards.items():
                path = self.folder / name
                if path.is_file() and path.stat().st_size == entry["bytes"]:
                    self._add(name, entry["keys"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return

    def _write_index(self) -> None:
        shards = {
            name: {"bytes": (self.folder / name).stat().st_size, "keys": keys}
            for name, keys in sorted(self._keys_of.items())
        }
        write_text(self._index, json.dumps({"format": FORMAT, "shards": shards}))

    def _opened(self, shard: str) -> tuple[Any, dict[str, list[str]]]:
        try:
            file: Any = safe_open(self.folder / shard, "pt")
        except (OSError, SafetensorError) as error:
            raise self._unusable(error) from None
        fields: dict[str, list[str]] = {}
        names: list[str] = list(file.keys())
        for name in names:
            key, _, field = name.partition("/")
            fields.setdefault(key, []).append(field)
        return file, fields

    def _unusable(self, error: Exception) -> InputError:
        return InputError(
            f"{printable(self.folder)}: the cache can't be used ({printable(error, 80)}). Free "
            "disk space, delete this folder, choose another data.cache_folder, or set data.cache "
            "to memory."
        )


def _groups(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for first in range(0, len(keys), size):
        yield keys[first : first + size]
