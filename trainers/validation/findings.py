"""What a loss map says of single pictures: bad captions, odd pictures, memorised ones. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from lora_diffusion.errors import printable
from trainers.validation.loss_map import LossMap, Row

Kind = Literal["caption", "stays-high", "memorised"]
# A picture stands out by so many standard deviations, as the median absolute deviation tells them
# (1.4826 of it is one, of normal values).
_DEVIATIONS, _TO_SIGMA = 3.5, 1.4826
_MIN_PICTURES = 5
_MIN_CAPTION_GAP = 0.05
# Of a fall of the loss, as the logarithm of its share of the base's: one that counts at all, a
# picture that fell less than this share of what the others did, and one that fell so many times as
# far as the held-out ones and by so much more.
_SOME_FALL, _SMALL_SHARE = 0.1, 0.5
_MEMORISED_TIMES, _MEMORISED_MORE = 4.0, 0.5


@dataclass(frozen=True)
class Finding:
    """One picture that stands out.

    Attributes:
        picture: its name within the dataset.
        kind: `caption` its caption fits no better than another's or none; `stays-high` its loss
            does not fall as others' do; `memorised` it fell far more than held-out ones.
        short: a few words.
        text: a sentence with the figures and what to do.
    """

    picture: str
    kind: Kind
    short: str
    text: str


def find(loss_map: LossMap) -> list[Finding]:
    """The pictures that stand out: captions first, then what stays high, then what is memorised.

    A picture whose caption is wrong is told of once: its other figures follow from that.
    """
    captions = list(_captions(loss_map))
    wrong = {finding.picture for finding in captions}
    rest = [
        finding
        for finding in (*_stays_high(loss_map), *_memorised(loss_map))
        if finding.picture not in wrong
    ]
    return [*captions, *rest]


def _captions(loss_map: LossMap) -> Iterator[Finding]:
    rows = [*loss_map.of("held_out"), *loss_map.of("trained")]
    gains = [(row, row.caption_gain) for row in rows]
    known = [(row, gain) for row, gain in gains if gain is not None and math.isfinite(gain)]
    values = [gain for _, gain in known]
    if len(known) < _MIN_PICTURES or median(values) <= 0:
        return  # where captions make no difference, none of them stands out
    for row, gain in known:
        if gain <= 0 and _is_low(gain, values, _MIN_CAPTION_GAP):
            yield Finding(
                row.name,
                "caption",
                "its caption does not fit",
                f"{printable(row.name)}: to the base its caption fits no better than another "
                f"picture's or none (loss {_change(gain)}; {_change(median(values))} for most "
                f"pictures). Check the caption '{printable(row.caption, 80)}'.",
            )


def _stays_high(loss_map: LossMap) -> Iterator[Finding]:
    """Trained pictures whose loss falls much less than the others'."""
    falls = _falls(loss_map.of("trained"))
    values = [fall for _, fall in falls]
    if len(falls) < _MIN_PICTURES or median(values) < _SOME_FALL:
        return
    usual = median(values)
    for row, fall in falls:
        if fall < _SMALL_SHARE * usual and _is_low(fall, values):
            yield Finding(
                row.name,
                "stays-high",
                "its loss stays high",
                f"{printable(row.name)}: its loss is still {_percent(fall)} of the base's, that of "
                f"the others {_percent(usual)}. It shows something else, or its caption does not "
                "say what it shows: look at it.",
            )


def _memorised(loss_map: LossMap) -> Iterator[Finding]:
    """Trained pictures whose loss fell far more than that of held-out ones."""
    held_out = [fall for _, fall in _falls(loss_map.of("held_out"))]
    if not held_out:
        return
    usual = median(held_out)
    least = max(_MEMORISED_TIMES * usual, usual + _MEMORISED_MORE)
    for row, fall in _falls(loss_map.of("trained")):
        if fall > least:
            yield Finding(
                row.name,
                "memorised",
                "memorised",
                f"{printable(row.name)}: its loss fell to {_percent(fall)} of the base's, that of "
                f"held-out pictures to {_percent(usual)}. It is being memorised: show it less "
                "often, or train for fewer steps.",
            )


def _falls(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """How far each picture's loss fell: -log of its share of the base's."""
    return [(row, -math.log(row.ratio)) for row in rows if math.isfinite(row.ratio)]


def _is_low(value: float, values: Sequence[float], least: float = 0.0) -> bool:
    """Whether `value` lies far below the others, and by `least` at least."""
    middle = median(values)
    sigma = _TO_SIGMA * median(abs(each - middle) for each in values)
    return value < middle - max(least, _DEVIATIONS * sigma)


def _change(gain: float) -> str:
    return f"{abs(gain):.0%} {'lower' if gain > 0 else 'higher'}"


def _percent(fall: float) -> str:
    return f"{math.exp(-fall):.0%}"
