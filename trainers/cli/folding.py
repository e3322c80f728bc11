"""What the verbs that write weights share: progress, limits, and their report as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lora_diffusion.errors import InputError, printable

if TYPE_CHECKING:
    from pathlib import Path

    from lora_diffusion.composition.cut import Limit
    from lora_diffusion.composition.fold import FoldedLayer


def add_limit(parser: argparse.ArgumentParser, energy: bool) -> None:
    """`--rank`, `--error`, and maybe `--energy`."""
    parser.add_argument("--rank", type=int, metavar="R", help="most ranks that a layer gets")
    parser.add_argument(
        "--error",
        type=float,
        metavar="E",
        help="cut each layer as far as its error stays below this share of its norm, 0..1",
    )
    if energy:
        parser.add_argument(
            "--energy",
            type=float,
            metavar="E",
            help="keep this share of each layer's squared norm, 0..1",
        )


def limit_of(arguments: argparse.Namespace) -> Limit:
    """The limit that the flags say.

    Raises:
        InputError: an error and an energy, or numbers that can't be meant.
    """
    from lora_diffusion.composition.cut import Limit

    energy = getattr(arguments, "energy", None)
    if energy is None:
        return Limit(arguments.rank, arguments.error)
    if arguments.error is not None:
        raise InputError("--error and --energy say the same in two ways. Give one of them.")
    return Limit.of_energy(energy, arguments.rank)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """A full disk is one line, not a trace."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{printable(out.name)}: it cannot be written ({reason}).") from error


def count(done: int, total: int) -> None:
    """Progress, on standard error."""
    end = "\n" if done == total else ""
    print(f"\rlayer {done} of {total}", end=end, file=sys.stderr, flush=True)


def layers_as_json(layers: Iterable[FoldedLayer]) -> list[dict[str, object]]:
    """One record a layer."""
    return [
        {
            "key": str(layer.key),
            "kind": layer.kind,
            "rank": layer.rank,
            "error": layer.error,
            "error_before_rounding": layer.error_before_rounding,
        }
        for layer in layers
    ]


def summary(layers: list[FoldedLayer]) -> str:
    """One line on a file's layers and the errors in it."""
    kinds = sorted({layer.kind for layer in layers})
    ranks = [layer.rank for layer in layers if layer.kind != "full"]
    told = f", rank {min(ranks)} to {max(ranks)}" if ranks else ""
    worst = max(layers, key=lambda layer: layer.error)
    return (
        f"{len(layers)} layers ({', '.join(kinds)}{told}); largest error {worst.error:.2e} of a "
        f"layer's norm, in {worst.key} ({worst.error_before_rounding:.2e} before rounding)"
    )
