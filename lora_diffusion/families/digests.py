"""Which weights a base has, by the hash of the files that hold them. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import write_text

_CHUNK_BYTES = 1 << 20
_ENDINGS = frozenset({".safetensors", ".json", ".txt"})


class WeightDigests:
    """SHA-256 of parts of bases, remembered in a file as long as the parts' files stay untouched.

    Args:
        memory: JSON file of what was hashed before; made if missing.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        try:
            known = json.loads(memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        self._known: dict[str, str] = known if isinstance(known, dict) else {}

    def of(self, location: Path, parts: Iterable[str]) -> str:
        """One digest of the parts of the base at `location`, with their settings and tokenizers.

        Args:
            location: folder in diffusers layout, of which the parts' own folders count; or a
                checkpoint, which counts whole.

        Raises:
            InputError: a file can't be read.
        """
        files = [location]
        if location.is_dir():
            folders = [location / name for part in parts for name in _folders(part)]
            files = sorted(
                path
                for folder in folders
                if folder.is_dir()
                for path in folder.iterdir()
                if path.suffix in _ENDINGS
            )
        total = hashlib.sha256()
        for path in files:
            name = path.relative_to(location).as_posix() if path != location else ""
            total.update(f"{name}\x1f{self._digest(path)}\x1e".encode())
        return total.hexdigest()

    def _digest(self, path: Path) -> str:
        try:
            state = path.stat()
            key = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
            if key not in self._known:
                digest = hashlib.sha256()
                with path.open("rb") as file:
                    while chunk := file.read(_CHUNK_BYTES):
                        digest.update(chunk)
                self._known[key] = digest.hexdigest()
                write_text(self._memory, json.dumps(self._known))
            return self._known[key]
        except OSError as error:
            raise InputError(f"{printable(path)}: can't be read ({error.strerror}).") from None


def _folders(part: str) -> tuple[str, ...]:
    """Where a part lies in a folder in diffusers layout; a text encoder with its tokenizer."""
    if part.startswith("text_encoder"):
        return part, part.replace("text_encoder", "tokenizer")
    return (part,)
