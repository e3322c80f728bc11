"""`lora-diffusion explain RUN`: what a run's figures mean, and what to change next. No torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.cli.verb import Verb

if TYPE_CHECKING:
    from trainers.explain import Advice, Explanation

_STYLES = {"good": "bold green", "unknown": "bold"}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="the folder of a run, finished or not")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from trainers.explain import explain
    from trainers.jobs import RunDir

    found = explain(RunDir(Path(arguments.folder).expanduser()))
    if arguments.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        _print(found)
    return 0


VERB = Verb("explain", "Say how a run went, and what to change next.", _configure, _run)


def _print(found: Explanation) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(markup=False, emoji=False, highlight=False)

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    say(f"{found.run}: {found.status}, {found.step:,} of {found.total_steps:,} steps", "dim")
    say(found.headline, _STYLES.get(found.fit, "bold yellow"))
    for sentence in found.says:
        say(f"  {sentence}")
    if found.pictures:
        say("Pictures", "bold")
        for finding in found.pictures:
            say(f"  {finding.text}")
    if found.advice:
        say("Change next", "bold")
        for advice in found.advice:
            say(f"  {_advice(advice)}")
    if found.command:
        say("As a command", "bold")
        say(f"  {found.command}")


def _advice(advice: Advice) -> str:
    if not advice.setting:
        return advice.text
    return f"--{advice.setting} {advice.after} (was {advice.before}). {advice.text}"
