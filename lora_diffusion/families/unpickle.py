"""The tensors of a pickled checkpoint (`.ckpt`, `.pt`), written as a safetensors file.

`legacy` runs it as a program, `python unpickle.py SOURCE TARGET`, in a process of its own. It
prints one JSON object: `{"left_out": […]}`, what the file holds besides weights, or
`{"problem": …}`.

A pickle is a program. What keeps it from running is torch's own reader with `weights_only=True`,
which knows a short list of things that build tensors and refuses all others. The process around
it is there because that reader has had a hole before (CVE-2025-32434): bounded memory and disk,
no programs, no network, no other file touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

MAX_GROWTH = 2  # the tensors may take so many times the bytes of the file: some lie there shared
SPARE_BYTES = 1 << 30
FORBIDDEN_EXIT = 77
# Python's audit events, by how they start, of what reading tensors never does.
_FORBIDDEN_EVENTS = (
    *("os.system", "os.exec", "os.fork", "os.spawn", "os.posix_spawn", "os.startfile", "pty."),
    *("os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.kill"),
    *("subprocess.", "socket.", "ctypes.", "shutil.", "winreg.", "urllib.", "webbrowser."),
)
_WRITING = frozenset("wax+")
# Averaged weights, of which training has no use where the weights themselves are there.
_EMA, _UNET = "model_ema.", "model.diffusion_model."
_CLASS = re.compile(r"GLOBAL ([\w.]+)")


class Nothing:
    """What stands in for objects that training programs left in the file, and that nobody needs."""

    def __init__(self, *_: object) -> None:
        """Keep nothing."""

    def __setstate__(self, _: object) -> None:
        """Keep nothing."""


# Objects in the official files of Stable Diffusion (Lightning's record of its checkpoints) and in
# common fine-tunes of them (a loss as a NumPy number).
_STAND_INS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


class RefusedError(Exception):
    """The file is not what it should be; the message is the cause, without the file's name."""


def extract(source: Path, target: Path) -> list[str]:
    """Write the tensors of `source` to `target`; returns the names of what was left out.

    Raises:
        RefusedError: it holds something else than tensors, or is broken.
    """
    found = _weights(_load(source))
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if any(name.startswith(_UNET) for name in tensors):
        tensors = {name: value for name, value in tensors.items() if not name.startswith(_EMA)}
    if not tensors:
        raise RefusedError("holds no weights")
    _check_plain(tensors, MAX_GROWTH * source.stat().st_size + (1 << 20))
    save_file(_apart(tensors), target)
    left_out = set(map(str, found)) - tensors.keys()
    return sorted({_EMA + "*" if name.startswith(_EMA) else name for name in left_out})


def _load(source: Path) -> Any:
    stand_ins: list[Any] = [(Nothing, name) for name in _STAND_INS]
    with source.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(source, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        asked = _CLASS.search(str(error))
        what = f"asks Python for {asked[1]}" if asked else "holds more than tensors"
        raise RefusedError(f"{what}, which only a program that is trusted may load") from error
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise RefusedError(f"cannot be read ({reason})") from error


def _weights(root: Any) -> Mapping[object, Any]:
    """The table of weights in what was loaded: under `state_dict`, as in training's checkpoints."""
    if isinstance(root, Mapping) and isinstance(root.get("state_dict"), Mapping):
        rest = {name: None for name in root if name != "state_dict"}
        return {**rest, **root["state_dict"]}
    if isinstance(root, Mapping):
        return root
    raise RefusedError(f"holds a {type(root).__name__} where a table of weights belongs")


def _check_plain(tensors: Mapping[str, Tensor], limit_bytes: int) -> None:
    """Refuse tensors that are more than numbers in the file."""
    total = 0
    for name, tensor in tensors.items():
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_quantized
        if not plain or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise RefusedError(f"holds '{name}' as a {tensor.type()}, not as plain numbers")
        total += tensor.numel() * tensor.element_size()
    if total > limit_bytes:
        raise RefusedError(f"unfolds to {total:,} bytes, far more than the file has")


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in memory of their own, as safetensors wants them; most lie so already."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous()
        result[name] = own.clone() if own.untyped_storage().data_ptr() in seen else own
        seen.add(result[name].untyped_storage().data_ptr())
    return result


def forbid_actions(target: Path) -> None:
    """End this process as soon as it starts a program, opens a connection, or writes elsewhere.

    A second line behind `weights_only`: Python tells of such actions before they happen.
    """

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and bool(_WRITING & set(str(arguments[1] or "")))
        if event.startswith(_FORBIDDEN_EVENTS) or (writes and str(arguments[0]) != str(target)):
            os._exit(FORBIDDEN_EXIT)

    sys.addaudithook(watch)


def bound_resources(file_bytes: int) -> None:
    """Limit what this process may take: memory and disk by the size of the file; no core dump."""
    try:
        import resource
    except ImportError:  # Windows
        return
    most = MAX_GROWTH * file_bytes + SPARE_BYTES
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, most)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _limit(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE") + file_bytes + 2 * most)


def _limit(what: int, most: int) -> None:
    import resource

    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, hard))


def main(source: Path, target: Path) -> int:
    torch.set_num_threads(1)
    bound_resources(source.stat().st_size)
    forbid_actions(target)
    try:
        with _quiet():
            answer: dict[str, object] = {"left_out": extract(source, target)}
    except RefusedError as error:
        answer = {"problem": str(error)}
    except MemoryError:
        answer = {"problem": "needs far more memory than its size allows"}
    print(json.dumps(answer))
    return 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what libraries print off standard output, which holds the answer."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
