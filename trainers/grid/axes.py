"""What varies along the axes of a sheet, and what every cell is then. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lora_diffusion.composition.weights import Weights, split_weight
from lora_diffusion.errors import InputError, printable

WEIGHT, ADAPTER, CHECKPOINT, PROMPT = "weight", "adapter", "checkpoint", "prompt"
MAX_CELLS = 400
NO_ADAPTER = "none"
_SPAN = re.compile(r"(-?[\d.]+):(-?[\d.]+):(-?[\d.]+)")
_WHOLE_SPAN = re.compile(r"(\d+)-(\d+)")
_LABEL_LENGTH = 90


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet.

    Attributes:
        base: as `load_base` takes it.
        adapters: file -> its weights, in order.
        prompt, negative, seed, steps, cfg: as `generate.PictureSpec` has them.
    """

    base: str
    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 25
    cfg: float = 7.0
    adapters: Mapping[Path, Weights] = field(default_factory=dict)


@dataclass(frozen=True)
class Axis:
    """What varies: one of `NAMES`, or `weight.STEM` for one adapter of several.

    Attributes:
        name: of it.
        values: as typed, spans spelt out.
        labels: for people.
    """

    name: str
    values: tuple[str, ...]
    labels: tuple[str, ...]


def parse_axis(words: Sequence[str]) -> Axis:
    """`["weight", "0", "0.5", "1"]` as an axis; numbers may be spans: `0:1:0.25`, seeds `1-4`.

    Raises:
        InputError: an unknown name, no values, too many, or ones that aren't what they must be.
    """
    name, given = words[0], list(words[1:])
    kind = name.partition(".")[0] if name.startswith(WEIGHT + ".") else name
    if kind not in NAMES:
        raise InputError(
            f"'{printable(name, 40)}' can't vary. An axis begins with one of {', '.join(NAMES)}, "
            "or weight.NAME for one adapter of several."
        )
    if not given:
        raise InputError(f"The axis {printable(name, 40)} has no values. Write them after it.")
    values = [each for text in given for each in _spelt_out(kind, text)]
    if len(values) > MAX_CELLS:
        raise InputError(f"The axis {printable(name, 40)} has {len(values)} values, too many.")
    for value in values:
        _CHECKS.get(kind, str)(value)
    return Axis(name, tuple(values), tuple(_label(kind, name, value) for value in values))


def cells(x: Axis, y: Axis | None, fixed: Cell) -> list[list[Cell]]:
    """Every row of a sheet: `x` varies within a row, `y` from row to row.

    Raises:
        InputError: both vary the same, or a weight varies and it isn't clear which.
    """
    if y is not None and y.name == x.name:
        raise InputError(f"Both axes vary {printable(x.name, 40)}. Give two different ones.")
    rows = [(y, value) for value in y.values] if y else [(None, "")]
    if len(rows) * len(x.values) > MAX_CELLS:
        raise InputError(
            f"The sheet has {len(rows) * len(x.values)} pictures, more than {MAX_CELLS}. Vary less."
        )
    return [
        [_cell(fixed, [(axis, v) for axis, v in ((x, column), row) if axis]) for column in x.values]
        for row in rows
    ]


def _cell(fixed: Cell, settings: Sequence[tuple[Axis, str]]) -> Cell:
    """`fixed` with what the axes say; adapters come before the weights that are for them."""
    cell, varied = fixed, None
    for axis, value in sorted(settings, key=lambda each: each[0].name.startswith(WEIGHT)):
        if axis.name == ADAPTER:
            if value != NO_ADAPTER:
                file, weights = split_weight(value)
                varied = Path(file)
                cell = replace(cell, adapters={**cell.adapters, varied: weights})
        elif axis.name.startswith(WEIGHT):
            swaps = any(other.name == ADAPTER for other, _ in settings)
            cell = _weighed(cell, axis, Weights.parse(value), varied, swaps)
        elif axis.name == CHECKPOINT:
            cell = replace(cell, base=value)
        elif axis.name == PROMPT:
            cell = replace(cell, prompt=value)
        else:
            cell = _SETTERS[axis.name](cell, value)
    return cell


def _weighed(cell: Cell, axis: Axis, weights: Weights, varied: Path | None, swaps: bool) -> Cell:
    stem = axis.name.partition(".")[2]
    if stem:
        meant = [file for file in cell.adapters if file.stem == stem]
    elif swaps:
        meant = [varied] if varied else []
        if not meant:
            return cell  # no adapter, so nothing to weigh
    else:
        meant = list(cell.adapters)
    if len(meant) != 1:
        known = ", ".join(f"weight.{printable(file.stem, 60)}" for file in cell.adapters)
        raise InputError(
            f"{printable(axis.name, 60)}: which adapter's? Write {known or 'an --adapter too'}."
        )
    return replace(cell, adapters={**cell.adapters, meant[0]: weights})


def _spelt_out(kind: str, text: str) -> list[str]:
    """The values that a word stands for."""
    if kind == "seed" and (span := _WHOLE_SPAN.fullmatch(text)):
        start, end = int(span[1]), int(span[2])
        return [str(n) for n in range(start, min(end, start + MAX_CELLS) + 1)]
    if kind in _NUMBERS and (span := _SPAN.fullmatch(text)):
        try:
            first, last, step = map(float, span.groups())
        except ValueError:
            raise InputError(f"'{printable(text, 40)}' is not a span such as 0:1:0.25.") from None
        count = (last - first) / step if step else -1.0
        if not 0 <= count <= MAX_CELLS:
            raise InputError(f"'{printable(text, 40)}' is not a span such as 0:1:0.25.")
        return [f"{round(first + n * step, 6):g}" for n in range(int(count + 1e-9) + 1)]
    return [text]


def _label(kind: str, name: str, value: str) -> str:
    if kind == PROMPT:
        return printable(value, _LABEL_LENGTH)
    if kind == ADAPTER:
        if value == NO_ADAPTER:
            return "no adapter"
        file, weights = split_weight(value)
        told = "" if weights == Weights() else f" at {weights}"
        return printable(Path(file).stem + told, _LABEL_LENGTH)
    if kind == CHECKPOINT:
        return printable(Path(value).name.removeprefix("bundled:"), _LABEL_LENGTH)
    of = f" of {name.partition('.')[2]}" if "." in name else ""
    return printable(f"{_TOLD.get(kind, kind)}{of} {value}", _LABEL_LENGTH)


def _number(setting: str, low: float, whole: bool) -> Callable[[str], Any]:
    def read(text: str) -> float:
        try:
            number: float = int(text) if whole else float(text)
        except ValueError:
            number = math.nan
        if not low <= number < 2**63:
            what = "whole numbers" if whole else "numbers"
            raise InputError(f"{setting} takes {what} from {low:g}, not '{printable(text, 40)}'.")
        return number

    return read


_seed, _steps, _cfg = _number("seed", 0, True), _number("steps", 1, True), _number("cfg", 0, False)
_SETTERS: Mapping[str, Callable[[Cell, str], Cell]] = MappingProxyType(
    {
        "seed": lambda cell, value: replace(cell, seed=_seed(value)),
        "steps": lambda cell, value: replace(cell, steps=_steps(value)),
        "cfg": lambda cell, value: replace(cell, cfg=_cfg(value)),
    }
)
_CHECKS: Mapping[str, Callable[[str], object]] = MappingProxyType(
    {"seed": _seed, "steps": _steps, "cfg": _cfg, WEIGHT: Weights.parse}
)
_NUMBERS = frozenset({WEIGHT, "cfg", "steps", "seed"})
_TOLD = {"cfg": "CFG"}
NAMES = (ADAPTER, WEIGHT, CHECKPOINT, PROMPT, *_SETTERS)
