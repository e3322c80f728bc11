"""Where an adapter of a composition comes from: a file, a PEFT folder, or one that is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats import load_adapter
from lora_diffusion.formats.header import refuse
from lora_diffusion.formats.raw import scan_finite
from lora_diffusion.formats.reading import lay_out_opened, open_adapter
from lora_diffusion.injection import check_fits
from lora_diffusion.keys import LayerKey

Source = str | Path | AdapterFile


def check(source: Source, shapes: Mapping[LayerKey, tuple[int, ...]] | None) -> None:
    """Refuse an adapter that can't be used, in bounded memory.

    Args:
        shapes: weight shape of each layer of the base, if it is known.

    Raises:
        AdapterFileError (an InputError): as `live.compose`.
    """
    if isinstance(source, AdapterFile):
        if shapes is not None:
            check_fits(source, shapes)
        for key, factors in source.layers.items():
            if not all(torch.isfinite(tensor).all() for tensor in factors.tensors().values()):
                raise InputError(f"The adapter's layer {key} holds NaN or infinite numbers.")
        return
    opened = open_adapter(source)
    lay_out_opened(opened, shapes)
    try:
        for piece in opened.pieces:
            scan_finite(piece.header)
    except OSError as error:
        refuse(opened.path, f"it cannot be read ({printable(error)})")


def load_source(source: Source, shapes: Mapping[LayerKey, tuple[int, ...]]) -> AdapterFile:
    """The adapter, read where it is a file; `shapes` as for `check`."""
    return source if isinstance(source, AdapterFile) else load_adapter(source, shapes)


def name_of(source: Source) -> str:
    """The file's name without its ending."""
    if isinstance(source, AdapterFile):
        return "adapter"
    return Path(source).name.removesuffix(".safetensors")
