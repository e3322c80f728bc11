"""Legacy checkpoints (`.ckpt`, `.pt`): PyTorch files, which are pickles, opened as safetensors.

What a file is, its first bytes say. A pickle is opened only under a name that says so, by
`unpickle` in a process of its own, which copies its tensors into a temporary safetensors file;
all else then goes the way of every checkpoint.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families import unpickle
from lora_diffusion.families.layout import AGAIN, PICKLE_ENDINGS
from lora_diffusion.families.request import Progress
from lora_diffusion.formats.header import Header, read_header

_SAFER = "Get the .safetensors version."
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80\x02"  # torch before 1.6: several pickles in a row
_TIMEOUT_S, _BYTES_PER_S = 120, 10 << 20
_SHOWN = 4


@contextmanager
def opened(path: Path, on_progress: Progress) -> Iterator[Header]:
    """The checked header of a checkpoint of either kind; its tensors can be read meanwhile.

    Raises:
        InputError: neither, or a pickle that is misnamed, broken, or holds more than tensors.
    """
    if not _is_pickle(path):
        yield read_header(path)
        return
    _check_pickle(path)
    size = path.stat().st_size
    on_progress("Copying the weights out of the pickled checkpoint, in a process of its own")
    with tempfile.TemporaryDirectory(prefix="lora-diffusion-", ignore_cleanup_errors=True) as work:
        if shutil.disk_usage(work).free < size:
            raise InputError(
                f"{printable(path.name)}: its copy as safetensors needs {size / 1e9:.1f} GB in "
                f"{printable(tempfile.gettempdir())}. Make room there, or set TMPDIR to a folder "
                "with more."
            )
        copy = Path(work) / path.name  # the name that messages show
        left_out = _copy(path.resolve(), copy)
        if left_out:
            shown = ", ".join(printable(name, 40) for name in left_out[:_SHOWN])
            more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
            on_progress(f"The file also holds {shown}{more}, left out")
        yield read_header(copy)


def _is_pickle(path: Path) -> bool:
    if not path.is_file():
        return False  # the header's reader says what it is instead
    with path.open("rb") as file:
        start = file.read(16)
    if start[8:9] == b"{":  # safetensors, whatever its length's first bytes look like
        return False
    return path.suffix.lower() in PICKLE_ENDINGS or start.startswith((_ZIP, b"\x80"))


def _check_pickle(path: Path) -> None:
    """Refuse, without opening the pickle, what no checkpoint is."""
    where = printable(path.name)
    if path.suffix.lower() not in PICKLE_ENDINGS:
        raise InputError(
            f"{where}: is a Python pickle under a name that hides it, and is refused. {_SAFER}"
        )
    with path.open("rb") as file:
        start = file.read(len(_ZIP))
    if start.startswith(_PICKLE):
        return
    if start != _ZIP:
        raise InputError(f"{where}: is not a checkpoint that PyTorch wrote. {AGAIN}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise InputError(f"{where}: is cut short or broken ({printable(error)}). {AGAIN}") from None
    names = [entry.filename.rpartition("/")[2] for entry in entries]
    if "constants.pkl" in names:
        raise InputError(f"{where}: is a TorchScript program, not a checkpoint. {_SAFER}")
    if names.count("data.pkl") != 1:
        raise InputError(f"{where}: is a zip archive, not a checkpoint of PyTorch. {_SAFER}")
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise InputError(f"{where}: is compressed, as PyTorch never writes it. {_SAFER}")


def _copy(source: Path, target: Path) -> list[str]:
    """Have `unpickle` write the tensors of `source` to `target`; returns what was left out."""
    where = printable(source.name)
    try:
        # -P: nothing beside the program may pose as one of the modules it imports.
        done = subprocess.run(
            [sys.executable, "-P", str(Path(unpickle.__file__)), str(source), str(target)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_S + source.stat().st_size / _BYTES_PER_S,
            cwd=target.parent,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{where}: reading it takes absurdly long. {_SAFER}") from None
    if done.returncode == unpickle.FORBIDDEN_EXIT:
        raise InputError(
            f"{where}: tried to run a program or to reach a file or the network, and was stopped. "
            f"It is an attack; delete it. {_SAFER}"
        )
    answer = _answer(done.stdout)
    if done.returncode or answer is None:
        reason = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise InputError(f"{where}: cannot be read ({printable(reason)}). {AGAIN}")
    if "problem" in answer:
        raise InputError(f"{where}: {printable(answer['problem'])}. {_SAFER}")
    return [str(name) for name in answer["left_out"]]


def _answer(text: str) -> dict[str, list[str]] | None:
    try:
        answer = json.loads(text.splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return answer if isinstance(answer, dict) and answer.keys() & {"problem", "left_out"} else None
