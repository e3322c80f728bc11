"""Finding the adapter that a prompt names, in a folder of adapters. No torch."""

from __future__ import annotations

from pathlib import Path

from lora_diffusion.errors import AdapterFileError, InputError, listed, printable
from lora_diffusion.formats.header import read_header

_ENDING = ".safetensors"
_ALIAS = "ss_output_name"  # what A1111 takes as a file's other name


def find_adapter(folder: str | Path, name: str) -> Path:
    """The file in `folder`, or below, that `<lora:name>` means.

    A file's name without its ending comes first, then what its metadata say it was called.

    Raises:
        InputError: there is no such folder; no file has that name, or several do.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{printable(folder)}: is no folder. Give the folder of your LoRA files.")
    files = sorted(folder.rglob(f"*{_ENDING}"))
    found = [file for file in files if file.name.removesuffix(_ENDING) == name]
    found = found or [file for file in files if _alias(file) == name]
    if not found:
        raise InputError(
            f"No LoRA called '{printable(name, 80)}' is in {printable(folder)}. The name in a tag "
            "is that of a file, without its ending."
        )
    if len(found) > 1:
        where = listed([file.relative_to(folder) for file in found])
        raise InputError(f"Several LoRA files are called '{printable(name, 80)}': {where}.")
    return found[0]


def _alias(file: Path) -> str | None:
    try:
        return read_header(file).metadata.get(_ALIAS)
    except AdapterFileError:  # somebody else's file; it is told when it is used
        return None
