"""`lora-diffusion relabel FILE --out FILE`: other metadata, the same tensors. Needs no torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats import relabel as labels
from lora_diffusion.formats.header import read_header
from trainers.cli.replacing import Output
from trainers.cli.verb import Verb


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a .safetensors adapter")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True)
    parser.add_argument(
        "--set", metavar="KEY=TEXT", action="append", default=[], help="set one entry; repeatable"
    )
    parser.add_argument(
        "--remove", metavar="KEY", action="append", default=[], help="leave one out; repeatable"
    )
    parser.add_argument(
        "--clean", action="store_true",
        help="keep only what others need to use the file: no captions, folders, times, machine",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    before = read_header(arguments.file).metadata
    values = dict(_pair(text) for text in arguments.set)
    if not (values or arguments.remove or arguments.clean):
        raise InputError("Nothing would change: give --set, --remove or --clean.")
    kept = labels.shared(before) if arguments.clean else dict(before)
    final = labels.changed(kept, values, arguments.remove)
    labels.relabel(arguments.file, arguments.out, final)
    after = read_header(arguments.out).metadata
    told = {
        "out": printable(arguments.out, 4_096),
        "removed": sorted(printable(key, 200) for key in before.keys() - after.keys()),
        "set": sorted(printable(k, 200) for k, v in after.items() if before.get(k) != v),
        "kept": sorted(printable(k, 200) for k, v in after.items() if before.get(k) == v),
    }
    if arguments.json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        counts = (len(told["removed"]), len(told["set"]), len(told["kept"]))
        print(f"{told['out']}: {counts[0]} removed, {counts[1]} set, {counts[2]} kept")
    return 0


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {printable(text, 60)}: write it as KEY=TEXT.")
    return key.strip(), value


VERB = Verb(
    "relabel", "Change an adapter's metadata, or clean it.", _configure, _run, output=Output()
)
