"""`lora-diffusion analyse FILE[:WEIGHTS] … [--base PATH]`: what is in adapters, how they meet."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from lora_diffusion.errors import printable
from trainers.cli.replacing import Output
from trainers.cli.verb import Verb

if TYPE_CHECKING:
    from torch import Tensor

    from lora_diffusion.analyse.results import Analysis
    from lora_diffusion.keys import LayerKey

RESULT = "analysis.json"


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        metavar="FILE[:WEIGHTS]",
        nargs="+",
        help="adapters; with several, every two are compared, at weights such as 0.8 or 0.8,up.1=0",
    )
    parser.add_argument(
        "--base",
        metavar="PATH",
        help="their base: tells strength against its weights, and the amplification factor",
    )
    parser.add_argument(
        "--layers",
        metavar="PATTERN",
        default="*",
        help="only these layers, such as '*.attn2.to_v' or 'up.1' (default all)",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help=f"folder for the pictures and {RESULT}"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from lora_diffusion.analyse.study import Given, analyse
    from lora_diffusion.composition.weights import split_weight
    from lora_diffusion.files import write_text
    from lora_diffusion.formats import load_adapter

    named = [split_weight(text) for text in arguments.files]
    given = [Given(Path(path), load_adapter(path), weights) for path, weights in named]
    weights = _base_weights(arguments.base) if arguments.base else None
    found = analyse(
        given,
        base_weights=weights,
        base_name=arguments.base,
        layers=arguments.layers,
        on_layer=_progress,
    )
    print(file=sys.stderr)
    told = found.as_json()
    if arguments.out:
        from lora_diffusion.analyse.pictures import draw_all

        write_text(arguments.out / RESULT, json.dumps(told) + "\n")
        told["pictures"] = [str(path) for path in draw_all(found, arguments.out)]
    if arguments.json:
        print(json.dumps(told))
    else:
        _print(found)
        print("\n".join(told.get("pictures", ())))
    return 0


def _replaced(arguments: argparse.Namespace) -> list[Path]:
    from lora_diffusion.analyse.pictures import PICTURES

    if arguments.out is None:
        return []
    return [found for name in (RESULT, *PICTURES) for found in sorted(arguments.out.glob(name))]


VERB = Verb(
    "analyse", "Tell what is in adapters, and where several interfere.", _configure, _run,
    output=Output(paths=_replaced),
)  # fmt: skip


def _base_weights(base: str) -> dict[LayerKey, Tensor]:
    from lora_diffusion.families import load_base
    from lora_diffusion.families.outline import VAE
    from lora_diffusion.keys import live_modules
    from lora_diffusion.layers import is_adaptable
    from lora_diffusion.variants import weight_of
    from trainers.progress import silence_libraries

    silence_libraries()
    loaded = load_base(base, put_off=(VAE,), on_progress=lambda text: print(text, file=sys.stderr))
    modules = live_modules(loaded.parts)
    return {key: weight_of(module) for key, module in modules.items() if is_adaptable(module)}


def _progress(done: int, total: int) -> None:
    print(f"\rlayer {done} of {total}", end="", file=sys.stderr, flush=True)


def _print(found: Analysis) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False, highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("adapter", "kind", "layers", "norm", "effective rank", "amplification"):
        table.add_column(name, justify="left" if name in ("adapter", "kind") else "right")
    for adapter in found.adapters:
        factors = [row.factor for row in found.amplification if row.adapter == adapter.name]
        table.add_row(
            printable(adapter.name, 60),
            adapter.kind,
            str(len(adapter.layers)),
            f"{adapter.norm:.4g}",
            f"{median(layer.effective_rank for layer in adapter.layers):.1f}",
            f"{median(factors):.2f}" if factors else "-" if found.base else "needs --base",
        )
    console.print(table)
    for adapter in found.adapters:
        shares = sorted(adapter.block_shares().items(), key=lambda item: -item[1])[:5]
        told = ", ".join(f"{block} {share:.0%}" for block, share in shares)
        where = f"is strongest in: {told}" if adapter.norm else "changes nothing"
        console.print(f"{adapter.name} {where}", soft_wrap=True)
        for note in adapter.notes:
            console.print(f"! {note}", soft_wrap=True)
    for pair in found.pairs:
        console.print(
            f"\n{pair.first} with {pair.second}: overlap {pair.overlap:.2f}, "
            f"by chance {pair.chance:.2f}",
            soft_wrap=True,
        )
        for line in pair.advice:
            console.print(line, soft_wrap=True)
