"""What others may ask of a running process, by files in `control/` of its run folder. No torch.

| file | asks |
| --- | --- |
| `pause` | hold after the current step, for as long as the file is there |
| `save` | once: a checkpoint, and an adapter under `exports/` |
| `sample` | once: previews as the model stands |

The process looks after each step. Stopping is a signal, see `stopping`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from lora_diffusion.files import write_text

Request = Literal["save", "sample"]
_ONCE: tuple[Request, ...] = get_args(Request)
_PAUSE = "pause"


def ask(folder: Path, request: Request) -> None:
    """Ask once for `request`; asking again before it is done changes nothing."""
    write_text(folder / request, "")


def pause(folder: Path) -> None:
    """Ask the process to hold after its current step."""
    write_text(folder / _PAUSE, "")


def unpause(folder: Path) -> None:
    """Let it go on."""
    (folder / _PAUSE).unlink(missing_ok=True)


def is_paused(folder: Path) -> bool:
    """Whether the process is asked to hold."""
    return (folder / _PAUSE).exists()


def take(folder: Path) -> list[Request]:
    """What was asked for once since the last call; each is answered by one call only."""
    try:
        there = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return []
    wanted = [request for request in _ONCE if request in there]
    for request in wanted:
        (folder / request).unlink(missing_ok=True)
    return wanted


def clear(folder: Path) -> None:
    """Forget what an earlier process was asked."""
    take(folder)
    unpause(folder)
