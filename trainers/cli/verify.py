"""`lora-diffusion verify FILE [--base PATH] [--json]`: who reads a file. Needs no torch."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from lora_diffusion.consumers import TITLES, Portability, of_base, verify
from lora_diffusion.consumers.report import EQUAL
from lora_diffusion.errors import printable
from trainers.cli.verb import Verb

if TYPE_CHECKING:
    from rich.table import Table

_MISFITS_SHOWN = 5
_KEY_LENGTH = 400


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .safetensors adapter, or PEFT's folder")
    parser.add_argument(
        "--base",
        metavar="PATH",
        help="the base it is for, to check layers and shapes: a folder, a checkpoint, bundled:NAME",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    found = verify(arguments.file, of_base(arguments.base) if arguments.base else None)
    if arguments.json:
        print(json.dumps(as_json(found), indent=2))
    else:
        _print(found)
    return 0


VERB = Verb("verify", "Say which programs read an adapter file, key by key.", _configure, _run)


def as_json(found: Portability) -> dict[str, Any]:
    """The fixed surface of `--json`. Text out of the file has no control characters left."""
    return {
        "file": printable(found.path, 4_096),
        "arch": found.arch,
        "base": found.target,
        "portable": found.portable,
        "readers": list(found.readers),
        "consumers": {
            name: {
                "consumed": report.consumed,
                "total": report.total,
                "dropped": [
                    {"key": printable(key, _KEY_LENGTH), "reason": printable(why, _KEY_LENGTH)}
                    for key, why in report.dropped.items()
                ],
                "delta": printable(report.delta, _KEY_LENGTH),
                "wrong": [
                    {"layer": printable(stem, _KEY_LENGTH), "reason": how}
                    for stem, how in report.wrong.items()
                ],
                "reads": report.reads_it,
            }
            for name, report in found.reports.items()
        },
        "misfits": [printable(stem, _KEY_LENGTH) for stem in found.misfits],
        "notes": list(found.notes),
    }


def say(found: Portability) -> None:
    """The short form, for standard error after a file was written."""
    print(f"{printable(found.path.name)} is {printable(found.line, 2_000)}", file=sys.stderr)


def _print(found: Portability) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(markup=False, emoji=False, highlight=False)
    console.print(Text(printable(found.path, 400), style="bold"), soft_wrap=True)
    console.print(_table(found))
    for name, report in found.reports.items():
        for reason in report.reasons:
            line = Text.assemble((f"{TITLES[name]}: ", "cyan"), printable(reason, 400))
            console.print(line, soft_wrap=True)
    for misfit in _misfit_lines(found):
        console.print(Text.assemble(("! ", "bold yellow"), misfit), soft_wrap=True)
    for note in found.notes:
        console.print(Text(note, style="dim"), soft_wrap=True)
    verdict = (
        "Portable: all of them take every key and apply the right delta."
        if found.portable
        else "Not portable."
    )
    console.print(Text(verdict, style="bold"))


def _table(found: Portability) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("program", style="cyan", no_wrap=True)
    table.add_column("keys used", justify="right", no_wrap=True)
    table.add_column("delta", no_wrap=True)
    for name, report in found.reports.items():
        delta = {EQUAL: "right", "none": "none"}.get(report.delta, "wrong")
        style = "green" if report.reads_it else "yellow"
        table.add_row(
            TITLES[name],
            Text(f"{report.consumed} of {report.total}", style=style),
            Text(delta, style="green" if delta == "right" else "yellow"),
        )
    return table


def _misfit_lines(found: Portability) -> list[str]:
    if not found.misfits:
        return []
    shown = ", ".join(printable(stem, 120) for stem in found.misfits[:_MISFITS_SHOWN])
    more = len(found.misfits) - _MISFITS_SHOWN
    tail = f" and {more} more" if more > 0 else ""
    return [f"{found.target} has no layer of that name or shape: {shown}{tail}"]
