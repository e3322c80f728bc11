"""Adapter files: `load_adapter` and `save_adapter`; one codec a dialect.

`header`, `hash`, `metadata`, `summary` and `describe` work without torch, and so does importing
this package: torch is imported when tensors are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats.dialect import identify
from lora_diffusion.formats.header import Header, read_header, refuse
from lora_diffusion.formats.kohya_layout import check_header, lay_out, stem_table
from lora_diffusion.formats.metadata import (
    SPEC_KEY,
    TrainingFacts,
    build_metadata,
    facts_from_metadata,
)
from lora_diffusion.keys import LayerKey

if TYPE_CHECKING:
    from lora_diffusion.adapter import AdapterFile
    from lora_diffusion.formats.kohya import Decoded

FORMATS = ("kohya",)
DTYPES = ("fp16", "bf16", "fp32")

__all__ = [
    "DTYPES",
    "FORMATS",
    "TrainingFacts",
    "load",
    "load_adapter",
    "read_adapter",
    "save_adapter",
]


def load_adapter(
    path: str | Path, shapes: Mapping[LayerKey, tuple[int, ...]] | None = None
) -> AdapterFile:
    """Read an adapter file. Factors stay in the dtype of the file, on the CPU.

    Args:
        path: a `.safetensors` file.
        shapes: weight shape of each layer of the base it is meant for; an adapter that does not
            fit is refused before its tensors are read.

    Raises:
        AdapterFileError (a ValueError): the file is missing, broken, hostile, not an adapter, in a
            dialect that isn't read yet, holds NaN or infinity, or doesn't fit the base. The
            message names the file, the reason and the fix.
    """
    return read_adapter(path, shapes).adapter


load = load_adapter  # as the package calls it: `lora_diffusion.load`


def read_adapter(
    path: str | Path, shapes: Mapping[LayerKey, tuple[int, ...]] | None = None
) -> Decoded:
    """`load_adapter`, with notes on what had to be assumed (a missing alpha, the architecture)."""
    header = read_header(path)
    check_readable(header)
    lay_out(header.path, header.shapes(), stem_table(), shapes)
    from lora_diffusion.formats import kohya
    from lora_diffusion.formats.container import read_tensors

    try:
        tensors = read_tensors(header.path, header)
    except OSError as error:
        refuse(header.path, f"it cannot be read ({printable(error)})")
    return kohya.decode(
        tensors, header.metadata, stem_table(), base_shapes=shapes, source=header.path
    )


def save_adapter(
    adapter: AdapterFile,
    path: str | Path,
    *,
    dtype: str = "fp16",
    format: str = "kohya",
    facts: TrainingFacts | None = None,
) -> None:
    """Write an adapter file: beside `path`, flushed, checked, then renamed into place.

    Metadata is the adapter's own with what `facts` tell over it; without facts only what other
    tools need and the adapter's metadata lack is filled in. Hashes come from the bytes written.

    Args:
        dtype: of every number in the file, one of `DTYPES`. What it cannot hold is an error, not
            infinity.
        format: the dialect, one of `FORMATS`.
        facts: what to tell about the training. Unset title, rank and alpha are filled in from the
            file name and the layers.

    Raises:
        InputError: nothing to save, NaN or infinity, numbers too large for `dtype`, a layer that
            the dialect has no name for, or an unknown `dtype`, `format`, arch or prediction.
        OSError: the disk is full or not writable; `path` is as it was.
    """
    if format not in FORMATS:
        raise InputError(f"Format '{printable(format)}' isn't written. Use {' or '.join(FORMATS)}.")
    if dtype not in DTYPES:
        raise InputError(f"dtype '{printable(dtype)}' isn't written. Use {' or '.join(DTYPES)}.")
    import torch

    from lora_diffusion.formats import kohya
    from lora_diffusion.formats.container import write_tensors

    torch_dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    if not adapter.layers:
        raise InputError("The adapter has no layers, so there is nothing to save.")
    path = Path(path)
    tensors = kohya.encode(adapter, torch_dtype)
    known = facts or facts_from_metadata(adapter.metadata)
    guessed = known or TrainingFacts(arch=adapter.arch)
    try:
        told = build_metadata(_completed(guessed, adapter, path, dtype))
    except KeyError as error:
        raise InputError(
            f"Architecture and prediction {printable(error)} are unknown. Use sd15, sd21 or sdxl "
            "with epsilon or v_prediction."
        ) from None
    if known:
        metadata = {**adapter.metadata, **told}
    else:  # another tool's file: only fill in what it lacks, and claim no record of its making
        del told[SPEC_KEY]
        metadata = {**told, **adapter.metadata}
    write_tensors(path, tensors, metadata)


def check_readable(header: Header) -> None:
    """Refuse what is no adapter, or in a dialect or of a kind that isn't read yet.

    Raises:
        AdapterFileError
    """
    reason = identify(header.tensors.keys()).not_read_because()
    if reason:
        refuse(header.path, *reason)
    check_header(header)


def _completed(facts: TrainingFacts, adapter: AdapterFile, path: Path, dtype: str) -> TrainingFacts:
    """`facts` with what the layers themselves say where nothing was said."""
    layers = adapter.layers.values()
    rank, alpha = Counter((f.rank, f.alpha) for f in layers).most_common(1)[0][0]
    return replace(
        facts,
        title=facts.title or path.name.removesuffix(".safetensors"),
        kind="locon" if any(max(f.down.shape[2:], default=1) > 1 for f in layers) else facts.kind,
        rank=rank if facts.rank is None else facts.rank,
        alpha=alpha if facts.alpha is None else facts.alpha,
        dtype=dtype,
    )
