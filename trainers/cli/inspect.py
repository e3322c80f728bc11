"""`lora-diffusion inspect FILE [--json]`: what a file is. Needs no torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lora_diffusion.errors import printable
from lora_diffusion.formats.describe import Description, describe
from lora_diffusion.formats.summary import clean_metadata
from trainers.cli.verb import Verb

if TYPE_CHECKING:
    from rich.table import Table

_TAGS_SHOWN = 12
_LABEL_WIDTH = 16


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .safetensors adapter, or PEFT's folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    found = describe(arguments.file)
    if arguments.json:
        print(json.dumps(as_json(found), indent=2))
    else:
        _print(found)
    return 0


VERB = Verb("inspect", "Say what an adapter file is.", _configure, _run)


def as_json(found: Description) -> dict[str, Any]:
    """The fixed surface of `--json`. Text out of the file has no control characters left."""
    return {
        "file": printable(found.path, 4_096),
        "format": found.format,
        "arch": found.arch,
        "kind": found.kind,
        "rank": found.rank,
        "alpha": found.alpha,
        "ranks": {str(rank): count for rank, count in found.ranks.items()},
        "alphas": {f"{alpha:g}": count for alpha, count in found.alphas.items()},
        "modules": dict(found.modules),
        "dtypes": dict(found.dtypes),
        "title": found.summary.title,
        "trigger_words": list(found.summary.trigger_words),
        "base": found.summary.base or None,
        "hashes": {
            "sha256": found.hashes.sha256,
            "autov2": found.hashes.autov2,
            "autov3": found.hashes.autov3,
        },
        "metadata": clean_metadata(found.metadata),
        "problems": list(found.problems),
    }


def _print(found: Description) -> None:
    from rich.console import Console
    from rich.text import Text

    # Nothing out of a file is taken as markup, emoji or a link.
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(Text(printable(found.path, 400), style="bold"), soft_wrap=True)
    console.print(_facts_table(found))
    sha = Text.assemble((f"{'SHA256':<{_LABEL_WIDTH}}", "cyan"), found.hashes.sha256)
    console.print(sha, soft_wrap=True)  # in one piece, to be copied
    for problem in found.problems:
        console.print(Text.assemble(("! ", "bold yellow"), printable(problem, 400)))
    if found.metadata:
        console.print(
            Text(f"{len(found.metadata)} metadata entries; --json shows them.", style="dim")
        )


def _facts_table(found: Description) -> Table:
    from rich.table import Table
    from rich.text import Text

    summary = found.summary
    rows = {
        "title": summary.title,
        "kind": f"{found.kind} ({found.format}), " + ", ".join(found.dtypes),
        "made for": found.arch or "unknown",
        "prediction": summary.prediction,
        "base": summary.base,
        "rank": _spread(found.ranks),
        "alpha": _spread(found.alphas),
        "layers": ", ".join(f"{part} {count}" for part, count in found.modules.items()),
        "trigger words": ", ".join(summary.trigger_words),
        "tags": ", ".join(f"{tag} ({count})" for tag, count in summary.tags[:_TAGS_SHOWN]),
        "trained": _trained(found),
        "author": summary.author,
        "license": summary.license,
        "date": summary.date,
        "description": printable(summary.description, 400),
        "usage": printable(summary.usage_hint, 400),
        "AutoV2": found.hashes.autov2,
        "AutoV3": found.hashes.autov3,
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True, width=_LABEL_WIDTH - 2)
    table.add_column(overflow="fold")
    for label, value in rows.items():
        if value:
            table.add_row(Text(label), Text(value))
    return table


def _spread(counts: Mapping[int, int] | Mapping[float, int]) -> str:
    """`16`, or `16 (120x), 8 (40x)` where layers differ."""
    if len(counts) == 1:
        return f"{next(iter(counts)):g}"
    return ", ".join(f"{value:g} ({count}x)" for value, count in list(counts.items())[:6])


def _trained(found: Description) -> str:
    summary = found.summary
    if not (summary.steps or summary.epochs):
        return ""  # a resolution alone may be the base's default
    parts = (
        f"{summary.steps} steps" if summary.steps else "",
        f"{summary.epochs} epochs" if summary.epochs else "",
        summary.resolution,
        f"clip skip {summary.clip_skip}" if (summary.clip_skip or 1) > 1 else "",
    )
    return ", ".join(part for part in parts if part)
