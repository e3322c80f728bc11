"""What a verb would write over: all refuse it alike, unless `--overwrite` is given."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_diffusion.errors import InputError, printable


def _at_out(arguments: argparse.Namespace) -> Sequence[Path]:
    return [Path(arguments.out).expanduser()]


@dataclass(frozen=True)
class Output:
    """Where a verb writes.

    Attributes:
        option: the option that says where, as it is typed.
        paths: what the verb would write over, from its arguments; a folder counts as free while it
            is empty.
    """

    option: str = "--out"
    paths: Callable[[argparse.Namespace], Sequence[Path]] = _at_out

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add `--overwrite`."""
        parser.add_argument(
            "--overwrite", action="store_true", help=f"replace what is at {self.option} already"
        )

    def check(self, arguments: argparse.Namespace) -> None:
        """
        Raises:
            InputError: something is there, and it was not said to replace it.
        """
        if arguments.overwrite:
            return
        for path in self.paths(arguments):
            if _is_taken(path):
                raise InputError(
                    f"{printable(path, 4_096)}: exists already. Give another {self.option}, or "
                    "--overwrite to replace it."
                )


def _is_taken(path: Path) -> bool:
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() or path.is_symlink()
