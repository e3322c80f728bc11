"""`lora-diffusion again FILE --out TOML`: train again with a file's settings. Needs no torch."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trainers.cli.replacing import Output
from trainers.cli.verb import Verb


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="an adapter of ours or sd-scripts'")
    parser.add_argument("--out", metavar="TOML", type=Path, required=True, help="file to write")
    parser.add_argument(
        "--pictures", metavar="DIR", type=Path, help="the pictures, which no file holds"
    )
    parser.add_argument("--base", metavar="PATH", help="the base, of which files tell the name")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from lora_diffusion.files import write_text
    from trainers.library.again import again

    found = again(arguments.file, pictures=arguments.pictures, base=arguments.base)
    write_text(arguments.out, found.as_toml())
    command = f"python -m trainers.dreambooth_lora --config {arguments.out} --output_dir runs/again"
    if arguments.json:
        told = {
            "toml": str(arguments.out),
            "source": found.source,
            "notes": list(found.notes),
            "settings": found.spec.model_dump(mode="json", exclude_none=True),
            "command": command,
        }
        print(json.dumps(told, indent=2))
    else:
        for note in found.notes:
            print(f"! {note}", file=sys.stderr)
        print(command)
    return 0


VERB = Verb(
    "again",
    "Write the settings in an adapter file as a run's TOML.",
    _configure,
    _run,
    output=Output(),
)
