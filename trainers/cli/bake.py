"""`lora-diffusion bake --base PATH FILE:WEIGHTS … --out PATH`: adapters into a base's weights."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lora_diffusion.errors import printable
from trainers.cli.folding import count, writing
from trainers.cli.replacing import Output
from trainers.cli.verb import Verb
from trainers.cli.weighted import FORM, HELP, Weighted


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar=FORM, nargs="+", type=Weighted.parse, help=HELP)
    parser.add_argument("--base", metavar="PATH", required=True, help="folder or .safetensors file")
    parser.add_argument(
        "--out", metavar="PATH", required=True, type=Path, help="a new one of the same layout"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from lora_diffusion.composition.bake import bake

    out = arguments.out.expanduser()
    with writing(out):
        baked = bake(
            arguments.base,
            [(each.path, each.weights) for each in arguments.files],
            out,
            on_layer=count,
        )
    if arguments.json:
        told = {
            "out": printable(out, 4_096),
            "layers": [{"key": str(layer.key), "error": layer.error} for layer in baked.layers],
            "max_error": baked.max_error,
            "left_out": [printable(name, 400) for name in baked.left_out],
        }
        print(json.dumps(told, indent=2))
        return 0
    for name in baked.left_out:
        print(f"note: {printable(name, 400)} is left out, as it is not baked", file=sys.stderr)
    print(
        f"{printable(out, 4_096)}: {len(baked.layers)} layers changed; rounding costs up to "
        f"{baked.max_error:.2e} of a layer's update"
    )
    return 0


def _replaced(arguments: argparse.Namespace) -> list[Path]:
    """A file; a folder that holds anything is refused by `bake` itself."""
    out: Path = arguments.out.expanduser()
    return [] if out.is_dir() else [out]


VERB = Verb(
    "bake", "Write adapters into a base model's own weights.", _configure, _run,
    output=Output(paths=_replaced),
)  # fmt: skip
