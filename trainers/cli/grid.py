"""`lora-diffusion grid --x NAME VALUE … --y NAME VALUE …`: a sheet over two things that vary."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lora_diffusion.errors import InputError
from trainers.cli.base_flags import add_base_flags, open_base
from trainers.cli.drawing_flags import add_drawing_flags, check_sampler, show_progress, size_of
from trainers.cli.replacing import Output
from trainers.cli.verb import Verb
from trainers.cli.weighted import FORM, HELP, Weighted

_AXIS = (
    "adapter FILE[:WEIGHTS]|none …, weight 0:1:0.25, weight.NAME … for one adapter of several, "
    "checkpoint BASE …, prompt TEXT …, seed 1-4, steps 10 20, cfg 2 4 8"
)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--x", metavar=("NAME", "VALUE"), nargs="+", required=True, help=f"across: {_AXIS}"
    )
    parser.add_argument("--y", metavar=("NAME", "VALUE"), nargs="+", help="down, likewise")
    add_base_flags(parser)
    parser.add_argument(
        "--adapter",
        metavar=FORM,
        action="append",
        default=[],
        type=Weighted.parse,
        help=f"{HELP}; may be repeated",
    )
    parser.add_argument("--prompt", help="of all pictures, unless prompts vary")
    add_drawing_flags(parser, seed_of="the noise")
    parser.add_argument("--out", metavar="PNG", type=Path, required=True, help="file to write")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from lora_diffusion.formats.reading import open_adapter
    from trainers.grid.axes import Cell, cells, parse_axis
    from trainers.grid.drawing import draw_cells
    from trainers.grid.sheet import Grid, save_sheet

    check_sampler(arguments.sampler)
    if arguments.steps < 1:
        raise InputError("--steps must be at least 1.")
    if arguments.out.suffix.lower() != ".png":
        raise InputError("--out must name a .png file.")
    x = parse_axis(arguments.x)
    y = parse_axis(arguments.y) if arguments.y else None
    if arguments.prompt is None and "prompt" not in (x.name, y.name if y else ""):
        raise InputError("Give a --prompt, or let prompts vary: --x prompt TEXT TEXT.")
    fixed = Cell(
        base=arguments.base,
        prompt=arguments.prompt or "",
        negative=arguments.negative,
        seed=arguments.seed,
        steps=arguments.steps,
        cfg=arguments.cfg,
        adapters={each.path: each.weights for each in arguments.adapter},
    )
    rows = cells(x, y, fixed)
    for path in {path for row in rows for cell in row for path in cell.adapters}:
        open_adapter(path)  # is it one? The base takes long to load
    pictures = draw_cells(
        rows,
        lambda base: open_base(arguments, base),
        size_px=size_of(arguments.size),
        sampler=arguments.sampler,
        on_step=show_progress,
    )
    print(file=sys.stderr)
    width, height = pictures[0][0].size
    grid = Grid(x, y, rows, arguments.sampler, width, height)
    beside = save_sheet(grid, pictures, arguments.out)
    told = {"file": str(arguments.out), "parameters": str(beside), **grid.as_json()}
    print(json.dumps(told, indent=2) if arguments.json else arguments.out)
    return 0


def _written(arguments: argparse.Namespace) -> list[Path]:
    from trainers.grid.sheet import beside

    return [arguments.out, beside(arguments.out)]


VERB = Verb(
    "grid", "Draw a labelled sheet over two things that vary.", _configure, _run,
    output=Output(paths=_written),
)  # fmt: skip
