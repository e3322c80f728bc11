"""What the page asks for, checked: adapters with weights and places, and how to draw."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError, printable
from trainers.spec import JobSpec, PreviewSpec
from ui.compose.cards import Adapter, Cards

MAX_CHOSEN = 8
CELLS = 32  # a painted place is a grid of this many cells a side
_MAX_SEED = 2**31 - 1
_MAX_WEIGHT = 4.0
_HALVES = ("left", "right", "top", "bottom")


@dataclass(frozen=True)
class Chosen:
    """One adapter of the mix.

    Attributes:
        cells: where it acts, row by row: `1` inside, `0` outside; "" is the whole picture.
        there: the prompt of that place; "" is the whole picture's.
    """

    adapter: Adapter
    weights: Weights
    cells: str = ""
    there: str = ""


@dataclass(frozen=True)
class Wanted:
    """A mix and how to draw it."""

    base: str
    chosen: tuple[Chosen, ...]
    prompt: str
    negative: str
    seed: int
    steps: int
    cfg: float
    width_px: int
    height_px: int


def read_chosen(asked: object, cards: Cards) -> tuple[Chosen, ...]:
    """The adapters that the page sends, each with its weights and place.

    Raises:
        InputError: one that is gone, is there twice, or has a weight that can't be used.
    """
    if not isinstance(asked, list) or len(asked) > MAX_CHOSEN:
        raise InputError(f"Choose up to {MAX_CHOSEN} adapters.")
    offered = {adapter.id: adapter for adapter in cards.all()} if asked else {}
    found = []
    for one in asked:
        adapter = offered.get(str(one.get("id"))) if isinstance(one, dict) else None
        if adapter is None:
            raise InputError("An adapter of the mix is gone. Take it off and choose another one.")
        cells = _cells(one, adapter.title)
        there = str(one.get("there") or "").strip()[:2000] if cells else ""
        found.append(Chosen(adapter, _weights(one, adapter.title), cells, there))
    paths = [chosen.adapter.path for chosen in found]
    if len(set(paths)) < len(paths):
        raise InputError("An adapter is in the mix twice. Take one off.")
    return tuple(found)


def read_wanted(asked: Any, cards: Cards) -> Wanted:
    """The whole request.

    Raises:
        InputError: the field that can't be used, why, and what to type.
    """
    if not isinstance(asked, dict):
        raise InputError("The page sent something that is no request. Load it anew.")
    prompt = str(asked.get("prompt") or "").strip()
    if not prompt:
        raise InputError("Prompt: type what to draw.")
    base = str(asked.get("base") or "")
    if not base:
        raise InputError("Base model: choose one.")
    width, height = _size(asked.get("size"))
    return Wanted(
        base=base,
        chosen=read_chosen(asked.get("chosen"), cards),
        prompt=prompt[:2000],
        negative=str(asked.get("negative") or "").strip()[:2000],
        seed=int(_number(asked, "seed", "Seed", 0, _MAX_SEED, whole=True)),
        steps=int(_number(asked, "steps", "Steps", 1, 150, whole=True)),
        cfg=_number(asked, "cfg", "Guidance", 0, 30),
        width_px=width,
        height_px=height,
    )


def drawn_as(spec: JobSpec | None, base: str) -> dict[str, Any]:
    """How a base is read and drawn with: as the run that trained on it did, where one is known."""
    if spec is None or spec.model.base != base:
        return {"sampler": PreviewSpec().sampler}
    model = spec.model
    return {
        "sampler": spec.preview.sampler,
        "tokenizer": model.tokenizer,
        "prediction": model.prediction,
        "zero_snr": model.zero_snr,
        "clip_skip": model.clip_skip,
    }


def _weights(one: Mapping[str, Any], title: str) -> Weights:
    try:
        overall = _weight(one.get("weight"))
        models = {str(k): _weight(v) for k, v in dict(one.get("parts") or {}).items()}
        blocks = {str(k): _weight(v) for k, v in dict(one.get("blocks") or {}).items()}
    except (TypeError, ValueError):
        raise InputError(
            f"{title}: a weight is a number from {-_MAX_WEIGHT:g} to {_MAX_WEIGHT:g}."
        ) from None
    return Weights(overall, models, blocks)


def _weight(value: Any) -> float:
    number = float(value)
    if not abs(number) <= _MAX_WEIGHT:  # not a number included
        raise ValueError
    return number


def _cells(one: Mapping[str, Any], title: str) -> str:
    region = one.get("region") or ""
    if region in _HALVES:
        half = CELLS // 2
        rows = []
        for y in range(CELLS):
            row = (
                (region in ("left", "right") and (x < half) == (region == "left"))
                or (region in ("top", "bottom") and (y < half) == (region == "top"))
                for x in range(CELLS)
            )  # fmt: skip
            rows.append("".join("01"[inside] for inside in row))
        return "".join(rows)
    if region != "painted":
        return ""
    cells = one.get("cells")
    if not isinstance(cells, str) or not re.fullmatch(rf"[01]{{{CELLS * CELLS}}}", cells):
        raise InputError(f"{printable(title, 60)}: paint where it acts, or choose another place.")
    return cells if "1" in cells else ""


def _size(typed: object) -> tuple[int, int]:
    """Width and height of `512` or `768x512`."""
    found = re.fullmatch(r"([0-9]{1,5})(?: ?[x×] ?([0-9]{1,5}))?", str(typed or "").strip())
    sides = [int(side) for side in found.groups() if side] if found else [0]
    if not all(32 <= side <= 2048 and side % 8 == 0 for side in sides):
        raise InputError("Size: type 512 or 768x512, sides from 32 to 2,048 that 8 divides.")
    return sides[0], sides[-1]


def _number(
    asked: Mapping[str, Any], name: str, label: str, low: float, high: float, whole: bool = False
) -> float:
    text = str(asked.get(name, "")).strip()
    kind = "a whole number" if whole else "a number"
    pattern = r"[0-9]{1,10}" if whole else r"[0-9]{1,4}(\.[0-9]{0,4})?"
    if not re.fullmatch(pattern, text) or not low <= float(text) <= high:
        raise InputError(f"{label}: type {kind} from {low:,} to {high:,}.")
    return float(text)
