"""`lora-diffusion library FOLDER`: what adapters are in a folder. Needs no torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lora_diffusion.errors import printable
from trainers.cli.verb import Verb

if TYPE_CHECKING:
    from trainers.library.cards import Card
    from trainers.library.index import Changes, Library

_SIDECARS = ("json", "civitai.info", "preview.png")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of adapters")
    parser.add_argument("--search", metavar="WORDS", default="", help="only what has all of these")
    parser.add_argument("--arch", choices=["sd15", "sd21", "sdxl"], help="only for this base")
    parser.add_argument("--kind", help="only this kind, such as lora or dora")
    parser.add_argument("--hash", metavar="HEX", help="only what has this SHA256, AutoV2 or AutoV3")
    parser.add_argument(
        "--index",
        metavar="FILE",
        type=Path,
        help="the SQLite file (default: one in ~/.cache/lora-diffusion)",
    )
    parser.add_argument(
        "--write",
        choices=_SIDECARS,
        action="append",
        default=[],
        help="put files that A1111 and its helpers read beside those shown, where there are none",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from trainers.library.index import Library

    library = Library(arguments.folder, arguments.index)
    changes = library.update(_progress)
    cards = library.cards(arguments.search, arch=arguments.arch, kind=arguments.kind)
    if arguments.hash:
        same = {card.file for card in library.by_hash(arguments.hash)}
        cards = [card for card in cards if card.file in same]
    written = [str(path) for card in cards for path in _write(library, card, arguments.write)]
    if arguments.json:
        told = {
            "folder": str(library.folder),
            "index": str(library.file),
            **asdict(changes),
            "adapters": [asdict(card) for card in cards],
            "written": written,
        }
        print(json.dumps(told, indent=2))
    else:
        _print(cards, changes)
        print("\n".join(written))
    return 0


VERB = Verb("library", "Index a folder of adapters and search it.", _configure, _run)


def _write(library: Library, card: Card, kinds: Sequence[str]) -> list[Path]:
    """Put the sidecars that are asked for and missing beside one adapter."""
    from lora_diffusion.formats.hash import file_hashes
    from trainers.library import sidecars

    path = library.folder / card.file
    made: list[Path] = []
    for kind in kinds if not card.broken else ():
        beside = path.with_name(f"{path.stem}.{kind}")
        if beside.exists():
            continue
        if kind == "json":
            words = ", ".join(card.trigger_words)
            shown = {"activation_text": words, "description": card.description}
            made.append(sidecars.write_card(path, shown | {"notes": card.notes}, card.arch))
        elif kind == "civitai.info":
            told = (card.title, card.trigger_words, card.arch, file_hashes(path))
            made.append(sidecars.write_civitai_info(path, *told))
        elif thumbnail := library.thumbnail(card.file):
            made.append(sidecars.write_preview(path, thumbnail))
    return made


def _progress(done: int, total: int, file: str) -> None:
    print(f"\r{done} of {total} files", end="\n" if done == total else "", file=sys.stderr)


def _print(cards: Sequence[Card], changes: Changes) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False, highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("file", "for", "kind", "rank", "trigger words", "AutoV3"):
        table.add_column(name, overflow="fold")
    for card in cards:
        if card.broken:
            continue
        table.add_row(
            printable(card.file, 80), card.arch or "?", card.kind, str(card.rank or "?"),
            ", ".join(card.trigger_words[:4]), card.autov3,
        )  # fmt: skip
    console.print(table)
    for card in cards:
        if card.broken:
            console.print(f"! {printable(card.broken, 300)}", soft_wrap=True)
    console.print(
        f"{changes.total} files: {changes.read} read, {changes.known} known by their bytes, "
        f"{changes.gone} gone since the last look"
    )
