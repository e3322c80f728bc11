"""The header's line on the machine: its GPU's memory, or the computer's own without a GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time

import psutil

_QUERY = ("--query-gpu=name,memory.used,memory.total", "--format=csv,noheader,nounits")
_REMEMBERED_SECONDS = 5.0
_ASK_SECONDS = 4.0
_MAKERS = re.compile(r"^(?:NVIDIA|GeForce|AMD|Radeon)\s+", re.IGNORECASE)


class Hardware:
    """Asks the driver at most every few seconds, and never keeps a page waiting for it."""

    def __init__(self) -> None:
        self._tool = shutil.which("nvidia-smi")
        self._lock = threading.Lock()
        self._asked_at = 0.0
        self._said = ""
        self._total = 0

    def total_bytes(self) -> int:
        """Memory that a run can have: the GPU's, else the computer's; 0 where not known yet."""
        if self._tool is None:
            return int(psutil.virtual_memory().total)
        self.line()
        return self._total

    def line(self) -> str:
        """`RTX 4070 · 7.4 of 12 GB`, of the first GPU, or `CPU · 5.1 of 16 GB`."""
        if self._tool is None:
            memory = psutil.virtual_memory()
            return f"CPU · {_of(memory.total - memory.available, memory.total)}"
        if time.monotonic() - self._asked_at > _REMEMBERED_SECONDS and self._lock.acquire(False):
            threading.Thread(target=self._ask, args=(self._tool,), daemon=True).start()
        return self._said

    def _ask(self, tool: str) -> None:
        try:
            told = subprocess.run(
                [tool, *_QUERY], capture_output=True, text=True, timeout=_ASK_SECONDS, check=True
            ).stdout
            self._said, self._total = gpu_line(told), gpu_bytes(told)
        except (OSError, subprocess.SubprocessError):
            self._said = ""
        finally:
            self._asked_at = time.monotonic()
            self._lock.release()


def gpu_line(told: str) -> str:
    """The driver's first line, `NVIDIA GeForce RTX 4070, 7577, 12282` in MiB, for people."""
    parts = _parts(told)
    if parts is None:
        return ""
    name, used, total = parts
    while _MAKERS.match(name):
        name = _MAKERS.sub("", name)
    return f"{name[:24]} · {_of(used, total)}"


def gpu_bytes(told: str) -> int:
    """The memory of the GPU on the driver's first line; 0 where it does not say."""
    parts = _parts(told)
    return parts[2] if parts else 0


def _parts(told: str) -> tuple[str, int, int] | None:
    """(name, bytes in use, bytes in all)."""
    parts = [part.strip() for part in told.partition("\n")[0].split(",")]
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return None
    return parts[0], int(parts[1]) << 20, int(parts[2]) << 20


def _of(used: int, total: int) -> str:
    return f"{used / 2**30:.1f} of {total / 2**30:.0f} GB"
