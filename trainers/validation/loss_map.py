"""Loss by picture and timestep: the file that a measurement leaves, and its drawing. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import write_text

_DIGITS = 6


@dataclass(frozen=True)
class Row:
    """One picture; each list has one entry a timestep, in the order of the map's.

    Attributes:
        name: of its file within the dataset.
        sort: `held_out`, `trained` or `class`.
        caption: with which it is measured.
        base: mean squared error of the base alone.
        loss: with the adapter.
        other: the base's with other pictures' captions, on average; empty where there are none.
        empty: the base's with no caption.
    """

    name: str
    sort: str
    caption: str
    base: tuple[float, ...]
    loss: tuple[float, ...]
    other: tuple[float, ...] = ()
    empty: tuple[float, ...] = ()

    @property
    def ratio(self) -> float:
        """Its loss as a share of the base's, so that hard pictures and easy ones compare.

        The geometric mean over the timesteps: noisy ones, where the loss is small, count as much.
        """
        return _geometric(self.loss, self.base)

    @property
    def caption_gain(self) -> float | None:
        """By what share the base's loss is lower with its own caption than with others' or none.

        The base is asked, because an adapter soon learns wrong captions too. At and below 0,
        another caption fits as well; None where there is none to compare with.
        """
        gains = [1 - _geometric(self.base, rival) for rival in (self.other, self.empty) if rival]
        return min(gains) if gains else None


@dataclass(frozen=True)
class LossMap:
    """One measurement of every watched picture.

    Attributes:
        step: after how many steps.
        timesteps: ascending; high is noisy.
    """

    step: int
    timesteps: tuple[int, ...]
    rows: tuple[Row, ...]

    def of(self, sort: str) -> list[Row]:
        return [row for row in self.rows if row.sort == sort]


def mean_loss(rows: Sequence[Row], *, base: bool = False) -> float | None:
    """Mean over pictures and timesteps; None of no pictures."""
    values = [value for row in rows for value in (row.base if base else row.loss)]
    return sum(values) / len(values) if values else None


def write(loss_map: LossMap, path: Path) -> None:
    """As JSON; numbers that are not finite become null.

    Raises:
        OSError: the disk is full.
    """
    write_text(path, json.dumps(_plain(asdict(loss_map)), ensure_ascii=False, allow_nan=False))


def read(path: Path) -> LossMap:
    """A map as `write` wrote it.

    Raises:
        InputError: missing or damaged.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(_row(each) for each in raw["rows"])
        found = LossMap(int(raw["step"]), tuple(map(int, raw["timesteps"])), rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{printable(path)}: can't be read as a loss map ({printable(error, 80)})."
        ) from None
    count = len(found.timesteps)
    for row in rows:
        optional = (row.other, row.empty)
        if (
            len(row.base) != count
            or len(row.loss) != count
            or any(values and len(values) != count for values in optional)
        ):
            raise InputError(f"{printable(path)}: has rows of unequal length.")
    return found


def _row(raw: Mapping[str, Any]) -> Row:
    lists = {
        name: tuple(math.nan if v is None else float(v) for v in raw.get(name, ()))
        for name in ("base", "loss", "other", "empty")
    }
    return Row(str(raw["name"]), str(raw["sort"]), str(raw["caption"]), **lists)


def _geometric(one: Sequence[float], other: Sequence[float]) -> float:
    """exp(mean(log(one / other))), not finite where a number is not, or is not above 0."""
    pairs = list(zip(one, other, strict=True))
    if not pairs or not all(a > 0 and b > 0 and math.isfinite(a + b) for a, b in pairs):
        return math.nan
    return math.exp(sum(math.log(a / b) for a, b in pairs) / len(pairs))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
