"""Where each file of a shard lies, kept on disk: a second start reads no tar headers.

One file a shard, good while the shard's size and time of change are as they were. It is a help and
never needed: where it can't be read or written, the headers are read again. No torch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lora_diffusion.files import write_text
from trainers.data.index import default_folder
from trainers.data.source import TarMember
from trainers.data.walk import Stat

_VERSION = 1


def read(shard: Path, stat: Stat) -> list[TarMember] | None:
    """The members of `shard` as kept; None where they are not, or no longer true."""
    try:
        kept = json.loads(_file(shard).read_text(encoding="utf-8"))
        if kept["size_bytes"] != stat.size_bytes or kept["mtime_ns"] != stat.mtime_ns:
            return None
        return [
            TarMember(shard, str(inner), int(offset), int(size))
            for inner, offset, size in kept["members"]
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write(shard: Path, stat: Stat, members: list[TarMember]) -> bool:
    """Keep the members of `shard`; whether it worked."""
    kept = {
        "size_bytes": stat.size_bytes,
        "mtime_ns": stat.mtime_ns,
        "members": [(member.inner, member.offset, member.size) for member in members],
    }
    try:
        write_text(_file(shard), json.dumps(kept, ensure_ascii=False))
    except OSError:
        return False
    return True


def _file(shard: Path) -> Path:
    key = str(shard.resolve()).encode("utf-8", "surrogateescape")
    name = hashlib.sha256(key).hexdigest()[:24]
    return default_folder() / "shards" / f"{name}-{_VERSION}.json"
