"""`lora-diffusion doctor FOLDER`: what is wrong with a dataset; `--system`: with this machine.

Exit codes: 0 nothing that stops a training, 2 otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_diffusion.errors import InputError, printable
from trainers.cli.verb import Verb

if TYPE_CHECKING:
    from trainers.data.doctor import Report
    from trainers.spec import JobSpec

_MAX_LINES = 60
_SAID_EVERY_SECONDS = 1.0
_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_DEFAULT_SIDE_PX, _DEFAULT_STEP_PX = 512, 64


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        help="a folder of pictures, or a file of settings (TOML) whose data section is looked at",
    )
    parser.add_argument("--system", action="store_true", help="look at this machine instead")
    parser.add_argument(
        "--fix", metavar="OUT", help="copy the dataset to OUT with what can safely be fixed"
    )
    parser.add_argument("--trigger", metavar="WORD", help="the trigger word of the training")
    parser.add_argument(
        "--resolution", metavar="PX", type=int, help="of the training (default 512)"
    )
    parser.add_argument(
        "--tokenizer", metavar="DIR", help="CLIP tokenizer, where none is on this machine"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.system:
        return _system(arguments)
    if not arguments.folder:
        raise InputError("Name the folder of pictures to look at, or pass --system.")
    from trainers.data import tokens
    from trainers.data.bucket_settings import bucket_rules, rules_by_outline
    from trainers.data.doctor import diagnose

    spec = _spec(arguments)
    base = spec.model.base if _is_settings(arguments.folder) else None
    tokenizer = arguments.tokenizer or spec.model.tokenizer
    report = diagnose(
        spec.data,
        rules=(rules_by_outline(spec) if base else None)
        or bucket_rules(spec.data, _DEFAULT_SIDE_PX, _DEFAULT_STEP_PX),
        find_tokens=lambda: tokens.find(base, tokenizer),
        captions_needed=_is_settings(arguments.folder) or spec.data.trigger is not None,
        on_progress=_Progress(),
    )
    fixed = None
    if arguments.fix:
        from trainers.data.fixes import write_fixed

        fixed = write_fixed(report, Path(arguments.fix).expanduser(), spec.data.max_megapixels)
    if arguments.json:
        body = report.as_json()
        if fixed is not None:
            body |= {"out": printable(arguments.fix, 4_096), "fixes": fixed}
        print(json.dumps(body, indent=2))
    else:
        _print(report)
        for line in fixed or ():
            print(line)
    return 2 if report.count("error") else 0


VERB = Verb("doctor", "Say what is wrong with a dataset, or this machine.", _configure, _run)


def _spec(arguments: argparse.Namespace) -> JobSpec:
    from lora_diffusion import bundled
    from trainers.layering import build_spec, read_toml

    if _is_settings(arguments.folder):
        layers = [read_toml(bundled.resolve(arguments.folder))]
    else:
        layers = [{"data": {"folder": arguments.folder}}]
    data: dict[str, Any] = {}
    if arguments.trigger is not None:
        data["trigger"] = arguments.trigger
    if arguments.resolution is not None:
        data["resolution_px"] = arguments.resolution
    return build_spec([*layers, {"data": data}])


def _is_settings(given: str) -> bool:
    return given.lower().endswith(".toml")


class _Progress:
    """A live count on a terminal, about a line a second elsewhere."""

    def __init__(self) -> None:
        self._said_at = -_SAID_EVERY_SECONDS

    def __call__(self, done: int, total: int) -> None:
        live, now = sys.stderr.isatty(), time.monotonic()
        if not live and done < total and now - self._said_at < _SAID_EVERY_SECONDS:
            return
        self._said_at = now
        start, end = ("\r", "") if live and done < total else ("\r" if live else "", "\n")
        print(f"{start}looking at pictures {done}/{total}", end=end, file=sys.stderr, flush=True)


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(markup=False, emoji=False, highlight=False)
    for problem in report.problems[:_MAX_LINES]:
        mark = (f"{problem.severity:<8}", _STYLES[problem.severity])
        console.print(Text.assemble(mark, str(problem)), soft_wrap=True)
    more = len(report.problems) - _MAX_LINES
    if more > 0:
        console.print(f"… and {more} more; --json lists all.")
    console.print(report.summary(), soft_wrap=True)


def _system(arguments: argparse.Namespace) -> int:
    from trainers.machine.examine import examine_machine

    findings = examine_machine()
    if arguments.json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            line = f"{finding.severity:<8} {finding.name:<14} {finding.value}"
            print(f"{line}. {finding.fix}" if finding.fix else line)
    return 2 if any(finding.severity == "error" for finding in findings) else 0
