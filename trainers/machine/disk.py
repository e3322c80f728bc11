"""What a user hears when the disk fails a run: the file, the cause, and how to go on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_diffusion.errors import InputError, printable

_TOLD = {
    errno.ENOSPC: ("the disk is full", "Free some space"),
    errno.EDQUOT: ("your quota on this disk is used up", "Free some space"),
    errno.EFBIG: ("the file is larger than this disk or your limit allows", "Raise the limit"),
    errno.EIO: ("the disk reports an input/output error", "Check the disk"),
    errno.EROFS: ("the disk is read-only", "Make it writable"),
    errno.EACCES: ("permission is denied", "Grant access to it"),
}


@contextmanager
def faults_told(run_folder: Path) -> Iterator[None]:
    """Turn an `OSError` that the disk is to blame for into an `InputError`; others pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _TOLD:
            raise
        cause, fix = _TOLD[error.errno]
        raise InputError(
            f"{printable(error.filename or run_folder, 400)}: {cause}. {fix}, then go on with "
            f"python -m trainers.dreambooth_lora --output_dir {printable(run_folder, 400)} --resume"
        ) from error
