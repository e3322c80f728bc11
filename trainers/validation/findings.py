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
# (1.4826 of it is one, of normal values), and by so much at least.
_DEVIATIONS, _TO_SIGMA = 3.5, 1.4826
_MIN_APART = 0.05
_MIN_PICTURES = 5
_MEMORISED_SHARE = 2.0
_MEMORISED_MIN = 0.15


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
    """The pictures that stand out: captions first, then what stays high, then what is memorised."""
    return [*_captions(loss_map), *_stays_high(loss_map), *_memorised(loss_map)]


def _captions(loss_map: LossMap) -> Iterator[Finding]:
    """By the trained adapter where it was asked, which knows the subject, else by the base."""
    rows = [*loss_map.of("held_out"), *loss_map.of("trained")]
    for trained in (True, False):
        gains = {row.name: row.caption_gain(trained=trained) for row in rows}
        known = {name: g for name, g in gains.items() if g is not None and math.isfinite(g)}
        if len(known) < _MIN_PICTURES:
            continue
        usual = median(known.values())
        if usual <= 0:
            continue  # captions make no difference here, so none of them stands out
        for row in rows:
            gain = known.get(row.name)
            if gain is not None and gain <= 0 and _is_low(gain, list(known.values())):
                yield _bad_caption(row, gain, usual, trained=trained)
        return


def _bad_caption(row: Row, gain: float, usual: float, *, trained: bool) -> Finding:
    who = "the adapter" if trained else "the base"
    return Finding(
        row.name,
        "caption",
        "its caption does not fit",
        f"{printable(row.name)}: to {who} its caption fits no better than another picture's or "
        f"none does (loss {_change(gain)}, where it is {_change(usual)} for most). Check the "
        f"caption '{printable(row.caption, 80)}'.",
    )


def _stays_high(loss_map: LossMap) -> Iterator[Finding]:
    """Trained pictures whose loss falls much less than the others'."""
    rows = [row for row in loss_map.of("trained") if math.isfinite(row.ratio)]
    ratios = [row.ratio for row in rows]
    if len(rows) < _MIN_PICTURES:
        return
    for row in rows:
        if _is_low(-row.ratio, [-ratio for ratio in ratios]):
            yield Finding(
                row.name,
                "stays-high",
                "its loss stays high",
                f"{printable(row.name)}: its loss is {_percent(row.ratio)} of the base's, where "
                f"the others are at {_percent(median(ratios))}. It shows something else, or its "
                "caption does not say what it shows: look at it.",
            )


def _memorised(loss_map: LossMap) -> Iterator[Finding]:
    """Trained pictures whose loss fell far more than that of held-out ones."""
    held_out = [row.ratio for row in loss_map.of("held_out") if math.isfinite(row.ratio)]
    if not held_out:
        return
    usual = median(held_out)
    limit = min(usual - _MEMORISED_MIN, 1 - _MEMORISED_SHARE * max(0.0, 1 - usual))
    for row in loss_map.of("trained"):
        if row.ratio < limit:
            yield Finding(
                row.name,
                "memorised",
                "memorised",
                f"{printable(row.name)}: its loss fell to {_percent(row.ratio)} of the base's, "
                f"that of held-out pictures to {_percent(usual)}. It is being memorised: show it "
                "less often, or train for fewer steps.",
            )


def _is_low(value: float, values: Sequence[float]) -> bool:
    """Whether `value` lies far below the others."""
    middle = median(values)
    sigma = _TO_SIGMA * median(abs(each - middle) for each in values)
    return value < middle - max(_MIN_APART, _DEVIATIONS * sigma)


def _change(gain: float) -> str:
    return f"{abs(gain):.1%} {'lower' if gain > 0 else 'higher'}"


def _percent(ratio: float) -> str:
    return f"{ratio:.0%}"
