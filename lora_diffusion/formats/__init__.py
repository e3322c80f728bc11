"""Adapter files: `load_adapter` and `save_adapter`, in every dialect.

| dialect | names | numbers |
| --- | --- | --- |
| kohya, lycoris | `kohya_names` (SDXL's own: `sgm_names`) | `decoding`, `encoding` |
| diffusers, peft | `diffusers_names`, `peft_config` | the same |
| legacy (cloneofsimo's; read only) | `legacy_names` | `decoding` |

`reading` opens files, `spelling` is what names are turned into, `layout` checks shapes, `arch`
tells the base. All but `decoding`, `encoding` and `container` work without torch, and so does
importing this package: torch is imported when tensors are.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import write_text
from lora_diffusion.formats.dialect import kind_of
from lora_diffusion.formats.diffusers_names import CONFIG_KEY
from lora_diffusion.formats.header import refuse
from lora_diffusion.formats.metadata import (
    SPEC_KEY,
    TrainingFacts,
    build_metadata,
    facts_from_metadata,
)
from lora_diffusion.formats.reading import (
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    lay_out_opened,
    open_adapter,
)
from lora_diffusion.keys import PARTS, LayerKey

if TYPE_CHECKING:
    from torch import Tensor

    from lora_diffusion.adapter import AdapterFile
    from lora_diffusion.formats.decoding import Decoded

FORMATS = ("kohya", "diffusers", "peft", "lycoris")
DTYPES = ("fp16", "bf16", "fp32")
_SUFFIX = ".safetensors"
_WITH_ALPHA_TENSORS = ("kohya", "lycoris")
# What other dialects keep in the metadata about the tensors of their own file.
_OF_THE_FILE = re.compile(rf"{CONFIG_KEY}|(unet|text_encoder)(:\d+:rank)?|<[^>]+>")

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
    """Read an adapter. Factors stay in the dtype of the file, on the CPU.

    Args:
        path: a `.safetensors` file of any dialect, or a folder that PEFT or diffusers saved.
        shapes: weight shape of each layer of the base it is meant for; an adapter that does not
            fit is refused before its tensors are read.

    Raises:
        AdapterFileError (a ValueError): the file is missing, broken, hostile, not an adapter, of a
            kind that isn't read, holds NaN or infinity, or doesn't fit the base. The message
            names the file, the reason and the fix.
    """
    return read_adapter(path, shapes).adapter


load = load_adapter  # as the package calls it: `lora_diffusion.load`


def read_adapter(
    path: str | Path, shapes: Mapping[LayerKey, tuple[int, ...]] | None = None
) -> Decoded:
    """`load_adapter`, with notes on what had to be assumed, and embeddings that came along."""
    opened = open_adapter(path)
    laid = lay_out_opened(opened, shapes)
    from lora_diffusion.formats.container import read_tensors
    from lora_diffusion.formats.decoding import decode

    tensors: dict[str, Tensor] = {}
    for piece in opened.pieces:
        try:
            found = read_tensors(piece.header.path, piece.header)
        except OSError as error:
            refuse(piece.header.path, f"it cannot be read ({printable(error)})")
        tensors |= {piece.label(name): tensor for name, tensor in found.items()}
    return decode(tensors, laid, opened.metadata, source=opened.path)


def save_adapter(
    adapter: AdapterFile,
    path: str | Path,
    *,
    dtype: str = "fp16",
    format: str = "kohya",
    facts: TrainingFacts | None = None,
    embeddings: Mapping[str, Tensor] | None = None,
    one_alpha: bool = False,
) -> tuple[str, ...]:
    """Write an adapter: beside `path`, flushed, checked, then renamed into place.

    Metadata is the adapter's own with what `facts` tell over it; without facts only what other
    tools need and the adapter's metadata lack is filled in. Hashes come from the bytes written.

    Args:
        path: a file; for `peft` a folder, in which each model gets one.
        dtype: of every number in the file, one of `DTYPES`. What it cannot hold is an error, not
            infinity.
        format: the dialect, one of `FORMATS`.
        facts: what to tell about the training. Unset title, rank and alpha are filled in from the
            file name and the layers.
        embeddings: tensors of textual-inversion embeddings to put beside the LoRA, as A1111 names
            them (`bundle_emb.NAME.…`); only in the kohya format.
        one_alpha: give all layers of a model one alpha, with up scaled so that every delta stays:
            diffusers reads no other files of kohya's right. Other formats have no need of it.

    Returns:
        One sentence for each thing that the file says otherwise than the adapter.

    Raises:
        InputError: a file name without .safetensors, nothing to save, NaN or infinity, numbers too
            large for `dtype`, what the dialect cannot say, `facts` of another arch, or an unknown
            `dtype`, `format`, arch or prediction.
        OSError: the disk is full or not writable; `path` is as it was.
    """
    if format not in FORMATS:
        raise InputError(f"Format '{printable(format)}' isn't written. Use {' or '.join(FORMATS)}.")
    if dtype not in DTYPES:
        raise InputError(f"dtype '{printable(dtype)}' isn't written. Use {' or '.join(DTYPES)}.")
    if embeddings and format != "kohya":
        raise InputError(f"The {format} format cannot hold embeddings; kohya's can.")
    from lora_diffusion.formats.alphas import with_one_alpha, with_storable_alphas
    from lora_diffusion.formats.container import FLOATS, write_tensors
    from lora_diffusion.formats.encoding import encode

    torch_dtype = FLOATS[dtype]
    if not adapter.layers:
        raise InputError("The adapter has no layers, so there is nothing to save.")
    if facts is not None and facts.arch != adapter.arch:
        raise InputError(
            f"The adapter is for {printable(adapter.arch)}, and the facts to save with it are of "
            f"{printable(facts.arch)}. Give the facts of its own training."
        )
    path = Path(path)
    _check_target(path, format, {key.part for key in adapter.layers})
    if format in _WITH_ALPHA_TENSORS:
        adapter = with_one_alpha(adapter) if one_alpha else adapter
        adapter = with_storable_alphas(adapter, torch_dtype)
    encoded = encode(adapter, torch_dtype, format)
    metadata = metadata_of(adapter, path, dtype, facts)
    if format != "peft":
        extra = {
            _embedding_name(name): tensor.to(torch_dtype)
            for name, tensor in (embeddings or {}).items()
        }
        write_tensors(path, {**encoded.pieces[""], **extra}, metadata)
        return encoded.notes
    for part, tensors in encoded.pieces.items():
        write_tensors(path / part / PEFT_WEIGHTS, tensors, metadata)
        write_text(path / part / PEFT_CONFIG, json.dumps(encoded.configs[part], indent=2) + "\n")
    return encoded.notes


def _check_target(path: Path, format: str, parts: Collection[str]) -> None:
    name = printable(path.name)
    if format == "peft":
        if path.is_file() or path.name.endswith(_SUFFIX):
            raise InputError(f"{name}: PEFT's format is a folder. Give a name for a folder.")
        for other in ("", *(part for part in PARTS if part not in parts)):
            if (path / other / PEFT_CONFIG).exists():
                raise InputError(
                    f"{name}: it holds another adapter ('{Path(other) / PEFT_CONFIG}'), which "
                    "would be taken for a part of this one. Give a new folder."
                )
    elif path.is_dir():
        raise InputError(f"{name}: it is a folder. Give a file name that ends in {_SUFFIX}.")
    elif path.suffix.lower() != _SUFFIX:
        raise InputError(
            f"{name}: no program finds an adapter of that name. Give a file name that ends in "
            f"{_SUFFIX}."
        )


def _embedding_name(name: str) -> str:
    """cloneofsimo's `<s1>` as A1111 names what travels in a LoRA file."""
    if name.startswith("<"):
        return f"bundle_emb.{name.strip('<>')}.string_to_param.*"
    return name


def metadata_of(
    adapter: AdapterFile, path: Path, dtype: str, facts: TrainingFacts | None = None
) -> dict[str, str]:
    """What the header of a file with `adapter` says; arguments and errors as in `save_adapter`."""
    own = {key: value for key, value in adapter.metadata.items() if not _OF_THE_FILE.fullmatch(key)}
    recorded = facts_from_metadata(own)
    known = facts or (recorded and replace(recorded, arch=adapter.arch))
    guessed = known or TrainingFacts(arch=adapter.arch)
    try:
        told = build_metadata(_completed(guessed, adapter, path, dtype))
    except KeyError as error:
        raise InputError(
            f"Architecture and prediction {printable(error)} are unknown. Use sd15, sd21 or sdxl "
            "with epsilon or v_prediction."
        ) from None
    if known:
        return {**own, **told}
    del told[SPEC_KEY]  # another tool's file: only fill in what it lacks, and claim no record
    return {**told, **own}


def _completed(facts: TrainingFacts, adapter: AdapterFile, path: Path, dtype: str) -> TrainingFacts:
    """`facts` with what the layers themselves say where nothing was said."""
    layers = adapter.layers.values()
    rank, alpha = Counter((f.rank, f.alpha) for f in layers).most_common(1)[0][0]
    return replace(
        facts,
        title=facts.title or path.name.removesuffix(_SUFFIX),
        kind=_kind(facts.kind, adapter),
        rank=rank if facts.rank is None else facts.rank,
        alpha=alpha if facts.alpha is None else facts.alpha,
        dtype=dtype,
    )


def _kind(stated: str, adapter: AdapterFile) -> str:
    """What the layers say, but `rslora`, which looks like LoRA, as stated."""
    found = kind_of((factors.kind, factors.weight_shape) for factors in adapter.layers.values())
    return stated if found == "lora" else found
