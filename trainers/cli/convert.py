"""`lora-diffusion convert IN OUT --to FORMAT`: the same adapter in another dialect."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lora_diffusion.consumers import Portability, verify
from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats import DTYPES, FORMATS
from trainers.cli.replacing import Output
from trainers.cli.verb import Verb
from trainers.cli.verify import say

if TYPE_CHECKING:
    from lora_diffusion.adapter import AdapterFile

SAME = "same"


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="IN", help="a .safetensors adapter, or a folder that PEFT saved"
    )
    parser.add_argument("output", metavar="OUT", help="the file to write; for peft, a folder")
    parser.add_argument("--to", choices=FORMATS, required=True, help="whose dialect to write")
    parser.add_argument(
        "--dtype",
        choices=(SAME, *DTYPES),
        default=SAME,
        help="numbers in the file; 'same' as in IN where they can be written (default)",
    )
    parser.add_argument(
        "--keep-embeddings",
        action="store_true",
        help="keep textual-inversion embeddings that travel in the file (kohya only)",
    )
    parser.add_argument(
        "--one-alpha",
        action="store_true",
        help="kohya and lycoris: one alpha for all layers of a model and the same deltas, for "
        "diffusers, which reads only such files right",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from lora_diffusion.formats import read_adapter, save_adapter

    out = Path(arguments.output).expanduser()
    read = read_adapter(arguments.input)
    dtype = _main_dtype(read.adapter) if arguments.dtype == SAME else arguments.dtype
    embeddings = read.embeddings if arguments.keep_embeddings else {}
    notes = [*read.notes]
    if read.embeddings and not embeddings:
        notes.append("The embeddings were left out; --keep-embeddings keeps them.")
    try:
        notes += save_adapter(
            read.adapter,
            out,
            dtype=dtype,
            format=arguments.to,
            embeddings=embeddings,
            one_alpha=arguments.one_alpha,
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{printable(out.name)}: it cannot be written ({reason}).") from error
    layers = len(read.adapter.layers)
    found = verify(out)
    if arguments.json:
        print(json.dumps(_as_json(out, arguments.to, layers, notes, found), indent=2))
        return 0
    for note in notes:
        print(f"note: {printable(note, 400)}", file=sys.stderr)
    print(f"{printable(out, 4_096)}: {layers} layers in the {arguments.to} format, {dtype}.")
    say(found)
    return 0


VERB = Verb(
    "convert", "Write an adapter in another dialect.", _configure, _run,
    output=Output("OUT", lambda arguments: [Path(arguments.output).expanduser()]),
)  # fmt: skip


def _as_json(
    out: Path, format: str, layers: int, notes: list[str], found: Portability
) -> Mapping[str, object]:
    return {
        "out": printable(out, 4_096),
        "format": format,
        "layers": layers,
        "notes": [printable(note, 400) for note in notes],
        "portable": found.portable,
        "readers": list(found.readers),
        "unread": {name: printable(why, 400) for name, why in found.unread.items()},
    }


def _main_dtype(adapter: AdapterFile) -> str:
    """The dtype of most factors; fp32 for wider ones, fp16 for narrower ones."""
    import torch

    counts = Counter(
        tensor.dtype for f in adapter.layers.values() for tensor in f.tensors().values()
    )
    dtype = counts.most_common(1)[0][0]
    names = {torch.float16: "fp16", torch.bfloat16: "bf16"}
    return names.get(dtype, "fp32" if dtype.itemsize >= 4 else "fp16")
