"""`lora-diffusion extract TUNED BASE --rank R --out FILE`: a LoRA out of two checkpoints."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lora_diffusion.errors import printable
from lora_diffusion.formats import DTYPES
from trainers.cli.folding import add_limit, count, layers_as_json, limit_of, summary, writing
from trainers.cli.replacing import Output
from trainers.cli.verb import Verb


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tuned", metavar="TUNED", help="the fine-tuned model, folder or file")
    parser.add_argument("base", metavar="BASE", help="what it was made from, folder or file")
    parser.add_argument("--out", metavar="FILE", required=True, type=Path)
    add_limit(parser, energy=True)
    parser.add_argument(
        "--targets",
        default="all",
        help="UNet layers: attn, attn+ff, transformer, all (default), none, or patterns",
    )
    parser.add_argument("--text_targets", default="all", help="text-encoder layers, likewise")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="of the file")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from lora_diffusion.composition.fold import max_error
    from lora_diffusion.composition.resize import extract

    out = arguments.out.expanduser()
    limit = limit_of(arguments)
    with writing(out):
        found = extract(
            arguments.tuned,
            arguments.base,
            out,
            limit,
            targets_=arguments.targets,
            text_targets=arguments.text_targets,
            dtype=arguments.dtype,
            on_layer=count,
        )
    if arguments.json:
        told = {
            "out": printable(out, 4_096),
            "layers": layers_as_json(found.layers),
            "max_error": max_error(found.layers),
            "left_out": [str(key) for key in found.left_out],
            "share_left_out": found.share_left_out,
        }
        print(json.dumps(told, indent=2))
        return 0
    if found.left_out:
        print(
            f"note: {len(found.left_out)} layers differ that were not asked for, with "
            f"{100 * found.share_left_out:.1f}% of the squared difference",
            file=sys.stderr,
        )
    print(f"{printable(out, 4_096)}: {summary(list(found.layers))}")
    return 0


VERB = Verb(
    "extract", "Write two checkpoints' difference as a LoRA.", _configure, _run, output=Output()
)
