"""`lora-diffusion merge FILE:WEIGHTS … --out FILE`: one adapter out of many."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats import DTYPES
from trainers.cli.folding import add_limit, count, layers_as_json, limit_of, summary, writing
from trainers.cli.replacing import Output
from trainers.cli.verb import Verb
from trainers.cli.weighted import FORM, HELP, Weighted

if TYPE_CHECKING:
    from lora_diffusion.composition.pictures import PictureDifference

_METHODS = ("exact", "svd", "ties", "dare", "prune", "orthogonal")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar=FORM, nargs="+", type=Weighted.parse, help=HELP)
    parser.add_argument("--out", metavar="FILE", required=True, type=Path)
    parser.add_argument(
        "--method",
        choices=_METHODS,
        help="exact (default; svd where a rank or an error is given), or a sum that keeps the "
        "adapters apart: ties, dare, prune, orthogonal (docs/composition.md)",
    )
    add_limit(parser, energy=False)
    parser.add_argument(
        "--density", type=float, help="share of entries that ties (0.2), dare, prune (0.5) keep"
    )
    parser.add_argument("--seed", type=int, default=0, help="of dare's choice (default 0)")
    parser.add_argument("--base", metavar="PATH", help="base model; needed for DoRA and --pictures")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="of the file")
    parser.add_argument(
        "--pictures",
        metavar="N",
        type=int,
        default=0,
        help="draw N seeds with the adapters and with the file, and tell how they differ",
    )
    parser.add_argument("--prompt", action="append", help="of --pictures; may be repeated")
    parser.add_argument("--steps", type=int, default=15, help="of --pictures (default 15)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from lora_diffusion.composition.fold import FoldSettings, fold, max_error

    limit = limit_of(arguments)
    settings = FoldSettings(
        method=arguments.method or ("svd" if limit.cuts else "exact"),
        limit=limit,
        density=arguments.density,
        seed=arguments.seed,
        dtype=arguments.dtype,
    )
    if arguments.pictures and (arguments.base is None or not arguments.prompt):
        raise InputError("--pictures needs --base and --prompt to draw them with.")
    out = arguments.out.expanduser()
    with writing(out):
        layers = fold(
            [(each.path, each.weights) for each in arguments.files],
            out,
            settings,
            base=arguments.base,
            on_layer=count,
        )
    pictures = _pictures(arguments, out) if arguments.pictures else []
    if arguments.json:
        told = {
            "out": printable(out, 4_096),
            "method": settings.method,
            "layers": layers_as_json(layers),
            "max_error": max_error(layers),
            "pictures": [picture.as_json() for picture in pictures],
        }
        print(json.dumps(told, indent=2))
        return 0
    print(f"{printable(out, 4_096)}: {summary(layers)}")
    for picture in pictures:
        print(picture)
    return 0


def _pictures(arguments: argparse.Namespace, out: Path) -> list[PictureDifference]:
    from lora_diffusion.composition.pictures import picture_differences
    from lora_diffusion.families import load_base
    from trainers.machine import devices
    from trainers.progress import silence_libraries
    from trainers.spec import ModelSpec

    placement = devices.choose(ModelSpec())
    silence_libraries()
    base = load_base(arguments.base, device=placement.device, dtype=placement.dtype)
    print("drawing", file=sys.stderr)
    return picture_differences(
        base,
        [(each.path, each.weights) for each in arguments.files],
        out,
        arguments.prompt,
        range(arguments.pictures),
        sampling_steps=arguments.steps,
    )


VERB = Verb("merge", "Fold several adapters into one file.", _configure, _run, output=Output())
