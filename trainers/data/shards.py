"""WebDataset shards: pictures within tars are found by their headers and read where they lie.

Nothing is unpacked, and no library is needed: an uncompressed tar keeps each file in one piece, so
its place is all there is to know, and any picture can be read at any time. Names in a tar are
labels, cleaned so that they can't lead out of a folder; links, devices and sparse files are not
read; sizes and counts are bounded. Headers are parsed by Python's `tarfile`. No torch.
Source: POSIX.1-2001 (pax, ustar) and the GNU tar manual for the layout; WebDataset's convention
that files of one stem belong together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import BLOCKSIZE, GNUTYPE_LONGNAME, GNUTYPE_SPARSE, REGULAR_TYPES, HeaderError, TarInfo
from typing import BinaryIO

from lora_diffusion.errors import InputError, printable
from trainers.data import shard_index
from trainers.data.problems import Problem
from trainers.data.source import TarMember
from trainers.data.walk import Stat, Tree, is_left_out

ENDING = ".tar"
MAX_MEMBERS = 2_000_000
MAX_MEMBER_BYTES = 512_000_000
_MAX_SHARDS = 100_000
_MAX_NAME = 1_000
_MAX_HEADER_BYTES = 1_000_000  # of a long name or of pax records
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
_PAX, _SOLARIS_PAX, _PAX_GLOBAL = b"x", b"X", b"g"
_WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})  # links, devices, folders
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_CHOICE = re.compile(r"\{([^{}/]*,[^{}]*)\}")
_UNSAFE = re.compile(r'[:*?"<>|]')
_PAX_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")


@dataclass
class Listing:
    """What a shard holds.

    Attributes:
        members: its regular files, in order.
        too_large: names of those over the limit, which are not among them.
        fault: (cause, fix) of what ended the reading early; None where all was read.
    """

    members: list[TarMember] = field(default_factory=list)
    too_large: list[str] = field(default_factory=list)
    fault: tuple[str, str] | None = None


def names_shards(location: Path) -> bool:
    """Whether `location` is a tar, or a pattern of several such as `a-{000..123}.tar`."""
    return location.name.lower().endswith(ENDING) and not location.is_dir()


def tree_of(location: Path) -> Tree:
    """The shards that `location` names, as files of a tree; their members are not in it yet.

    Raises:
        InputError: one of them is not there, or the pattern names too many.
    """
    paths = [Path(text) for text in expand(str(location))]
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    files: dict[str, Stat] = {}
    for path in paths:
        try:
            stat = path.stat()
        except (OSError, ValueError):
            raise InputError(
                f"{printable(path)}: there is no such shard. Check data.folder, or fetch it."
            ) from None
        name = path.absolute().relative_to(root).as_posix()
        files[name] = Stat(stat.st_size, stat.st_mtime_ns)
    return Tree(root, files)


def expand(pattern: str) -> list[str]:
    """The paths that `pattern` names: {000..123} counts with its zeros, {a,b} lists.

    Raises:
        InputError: they are too many.
    """
    waiting, found = [pattern], []
    while waiting:
        text = waiting.pop()
        match = _RANGE.search(text) or _CHOICE.search(text)
        if match is None:
            found.append(text)
            continue
        pieces = list(_pieces(match))
        if len(waiting) + len(found) + len(pieces) > _MAX_SHARDS:
            raise InputError(
                f"{printable(pattern)}: names more than {_MAX_SHARDS:,} shards. Check data.folder."
            )
        waiting += [text[: match.start()] + piece + text[match.end() :] for piece in pieces[::-1]]
    return found


def _pieces(match: re.Match[str]) -> Iterator[str]:
    if match.re is _CHOICE:
        yield from match[1].split(",")
        return
    first, last = match[1], match[2]
    if abs(int(last) - int(first)) >= _MAX_SHARDS:
        last = str(int(first) + _MAX_SHARDS)  # too many, as the caller finds
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        yield f"{number:0{len(first)}d}"


def add_members(tree: Tree) -> None:
    """Put the members of the tree's shards among its files, as `SHARD/NAME`.

    Raises:
        InputError: there are too many.
    """
    for shard, stat in list(tree.files.items()):
        if shard.lower().endswith(_COMPRESSED):
            tree.problems.append(
                Problem(
                    shard,
                    "warning",
                    "compressed-shard",
                    "is compressed, so that single pictures can't be reached, and is left out",
                    "Decompress it to a .tar, or unpack it.",
                )
            )
        if not shard.lower().endswith(ENDING):
            continue
        path = tree.root / shard
        kept = shard_index.read(path, stat)
        listing = Listing(kept or [])
        if kept is None:
            listing = list_members(path)
            if listing.fault is None and not listing.too_large:
                shard_index.write(path, stat, listing.members)
        if listing.fault is not None:
            cause, fix = listing.fault
            tree.problems.append(Problem(shard, "error", "damaged-shard", cause, fix))
        for inner in listing.too_large:
            cause = f"is over {MAX_MEMBER_BYTES // 1_000_000} MB"
            name = f"{shard}/{inner}"
            tree.problems.append(Problem(name, "error", "too-large", cause, "Leave it out."))
        for member in listing.members:
            name = f"{shard}/{member.inner}"
            if name in tree.members:
                tree.problems.append(
                    Problem(
                        name,
                        "warning",
                        "same-name",
                        "is in the shard more than once, and the first is taken",
                        "Write the shard anew with each name once.",
                    )
                )
                continue
            tree.members[name] = member
            tree.files[name] = Stat(member.size, stat.mtime_ns)
        if len(tree.members) > MAX_MEMBERS:
            raise InputError(
                f"{printable(tree.root)}: its shards hold more than {MAX_MEMBERS:,} files. Choose "
                "fewer of them."
            )
    in_order = sorted(tree.files.items())
    tree.files.clear()
    tree.files.update(in_order)


def list_members(shard: Path) -> Listing:
    """The regular files of one shard, by its headers alone; nothing about it is raised."""
    listing = Listing()
    try:
        with shard.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            _read_headers(file, size, shard, listing)
    except OSError as error:
        reason = printable(error.strerror or error)
        listing.fault = (f"can't be read ({reason})", "Give yourself the right, or remove it.")
    except _DamagedError as error:
        listing.fault = (str(error), "Fetch it again, or take it out of the folder.")
    return listing


class _DamagedError(Exception):
    """Why the rest of a shard can't be read."""


def _read_headers(file: BinaryIO, size: int, shard: Path, listing: Listing) -> None:
    position = 0
    name: bytes | None = None  # these two from headers about the next file
    length: int | None = None
    while position < size:
        file.seek(position)
        block = file.read(BLOCKSIZE)
        if not any(block):
            return  # the end mark
        header = _header(block, position)
        start = position + BLOCKSIZE
        if header.type in (GNUTYPE_LONGNAME, _PAX, _SOLARIS_PAX):
            told = _extra(file, start, header.size, size)
            if header.type == GNUTYPE_LONGNAME:
                name = told.rstrip(b"\0")
            else:
                name, length = _pax(told, name, length)
            position = _next(start, header.size)
            continue
        bytes_here = header.size if length is None else length
        if header.type == GNUTYPE_SPARSE:
            raise _DamagedError("stores sparse files, which are not read")
        if header.type in REGULAR_TYPES:
            if start + bytes_here > size:
                raise _DamagedError(
                    f"is cut off after {len(listing.members)} files, within "
                    f"{printable(header.name, 80)}"
                )
            inner = clean(header.name if name is None else name.decode("utf-8", "replace"))
            if inner is not None and bytes_here > MAX_MEMBER_BYTES:
                listing.too_large.append(inner)
            elif inner is not None:
                listing.members.append(TarMember(shard, inner, start, bytes_here))
                if len(listing.members) > MAX_MEMBERS:
                    raise _DamagedError(f"holds more than {MAX_MEMBERS:,} files")
        position = start if header.type in _WITHOUT_DATA else _next(start, bytes_here)
        name = length = None


def _header(block: bytes, position: int) -> TarInfo:
    try:
        header = TarInfo.frombuf(block, "utf-8", "replace")
    except HeaderError:
        if position == 0:
            raise _DamagedError("is no tar, or a compressed one") from None
        raise _DamagedError(f"is damaged at byte {position:,}") from None
    if header.size < 0:
        raise _DamagedError(f"is damaged at byte {position:,}")
    return header


def _extra(file: BinaryIO, start: int, length: int, size: int) -> bytes:
    """What a header about the next file says."""
    if length > _MAX_HEADER_BYTES or start + length > size:
        raise _DamagedError(f"is damaged at byte {start:,}")
    file.seek(start)
    return file.read(length)


def _pax(records: bytes, name: bytes | None, length: int | None) -> tuple[bytes | None, int | None]:
    """Name and length in bytes as pax records give them, else as they were."""
    position = 0
    while match := _PAX_RECORD.match(records, position):
        end = position + int(match[1])
        if end <= match.end() or end > len(records):
            break
        key, value = match[2], records[match.end() : end - 1]
        if key.startswith(b"GNU.sparse."):
            raise _DamagedError("stores sparse files, which are not read")
        if key == b"path":
            name = value
        elif key == b"size":
            if not re.fullmatch(rb"\d{1,18}", value):
                raise _DamagedError("gives a file a size that is no number")
            length = int(value)
        position = end
    return name, length


def clean(name: str) -> str | None:
    """A name in a tar as a label with `/`; None for hidden files and what systems leave behind.

    Control characters go, and `..`, drives and roots, so that joined to a folder it stays within.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    parts = [_UNSAFE.sub("_", printable(part, len(part))).strip() for part in parts]
    parts = [part for part in parts if part not in ("", ".", "..")]
    if not parts or name.endswith("/") or any(is_left_out(part) for part in parts):
        return None
    label = "/".join(parts)
    return label if len(label) <= _MAX_NAME else None


def _next(start: int, length: int) -> int:
    """Where the header after a file begins: files are padded to whole blocks."""
    return start + -(-length // BLOCKSIZE) * BLOCKSIZE
