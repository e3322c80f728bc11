"""What a subcommand is."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainers.cli.replacing import Output


@dataclass(frozen=True)
class Verb:
    """One subcommand of `lora-diffusion`.

    Attributes:
        name: as typed.
        summary: one line for `--help`.
        configure: adds the verb's arguments to its parser.
        extend: adds arguments that depend on the words given after the verb, so that `--help` shows
            them too. Bad input is raised as `InputError`.
        run: does it; returns the exit code. Bad input is raised as `InputError`.
        output: what it would write over; None for a verb that writes over nothing.
    """

    name: str
    summary: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    extend: Callable[[argparse.ArgumentParser, Sequence[str]], None] | None = None
    output: Output | None = None
