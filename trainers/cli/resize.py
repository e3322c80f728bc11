"""`lora-diffusion resize FILE --rank R --out FILE`: an adapter with fewer ranks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lora_diffusion.errors import printable
from lora_diffusion.formats import DTYPES
from trainers.cli.folding import add_limit, count, layers_as_json, limit_of, summary, writing
from trainers.cli.replacing import Output
from trainers.cli.verb import Verb


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="an adapter of any kind")
    parser.add_argument("--out", metavar="FILE", required=True, type=Path)
    add_limit(parser, energy=True)
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="of the file")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from lora_diffusion.composition.fold import max_error
    from lora_diffusion.composition.resize import resize

    out = arguments.out.expanduser()
    limit = limit_of(arguments)
    with writing(out):
        layers = resize(arguments.file, out, limit, dtype=arguments.dtype, on_layer=count)
    if arguments.json:
        told = {
            "out": printable(out, 4_096),
            "layers": layers_as_json(layers),
            "max_error": max_error(layers),
        }
        print(json.dumps(told, indent=2))
    else:
        print(f"{printable(out, 4_096)}: {summary(layers)}")
    return 0


VERB = Verb("resize", "Write an adapter with fewer ranks.", _configure, _run, output=Output())
