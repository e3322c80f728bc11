"""Random settings that are valid, from the schema alone: every field, within its bounds."""

from __future__ import annotations

import random
import re
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lora_diffusion.errors import InputError
from trainers.layering import build_spec
from trainers.spec import JobSpec

_TEXTS = (
    "plain", "two words", "ein Grüßchen", "日本語の説明", " blanks at the ends ", '"quoted"',
    "'single'",
    "a = b", "a,b;c", "[brackets]", "{trigger}", "true", "12", "1e-3", "--not.an-option", "-x",
    "C:\\folder\\new", "line\nbreak", "tab\there", "\u2028", "\x7f", "$HOME `x` %s", "#hash",
    "null and void", "'''", '"""', "emoji 🎨",
)  # fmt: skip
_FILE_NAMES = ("plain", "two words", "ein Grüßchen", "日本語", "it's", "a=b", "-dash", "true", "12")
_SHARE_SET = 0.3
_STEERING = {"kind", "lr_schedule", "masked_loss"}  # they decide which others are allowed
_SETTING = re.compile(r"\b([a-z_]+)\.([a-z_0-9]+)\b")


def valid_specs(count: int, seed: int) -> Iterator[JobSpec]:
    """`count` specs; what the schema's own rules refuse is left out, setting by setting."""
    dice = random.Random(seed)
    for _ in range(count):
        layer = _draw(dice)
        while True:
            try:
                spec = build_spec([layer])
            except InputError as error:
                _leave_out(layer, str(error))
                continue
            yield spec
            break


def _leave_out(layer: dict[str, dict[str, Any]], refusal: str) -> None:
    named = [(s, n) for s, n in _SETTING.findall(refusal) if n in layer.get(s, {})]
    assert named, f"names no setting: {refusal}"
    section, name = min(named, key=lambda pair: pair[1] in _STEERING)
    del layer[section][name]


def _draw(dice: random.Random) -> dict[str, dict[str, Any]]:
    share = dice.choice((0.05, 0.15, _SHARE_SET))
    layer: dict[str, dict[str, Any]] = {}
    for section, field in JobSpec.model_fields.items():
        model = field.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        layer[section] = {
            name: _value(dice, name, info)
            for name, info in model.model_fields.items()
            if dice.random() < (0.5 if name in _STEERING else share)
        }
    layer["schedule"].setdefault("steps", dice.randint(1, 100_000))
    return layer


def _value(dice: random.Random, name: str, info: FieldInfo) -> Any:
    annotation = info.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        if dice.random() < 0.1:
            return None
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    return _of(dice, name, annotation, list(info.metadata))


def _of(dice: random.Random, name: str, annotation: Any, bounds: list[Any]) -> Any:
    origin = get_origin(annotation)
    if annotation is bool:
        return dice.random() < 0.5
    if annotation in (int, float):
        return _number(dice, annotation, bounds)
    if annotation is str:
        if name == "caption_ending":
            return dice.choice((".txt", ".caption", ".tags"))
        return dice.choice(_FILE_NAMES if name == "name" else _TEXTS)
    if origin is Literal:
        return dice.choice(get_args(annotation))
    if origin is tuple:
        inner = get_args(annotation)[0]
        return [_of(dice, "", inner, []) for _ in range(dice.randint(0, 3))]
    if origin is dict:
        inner, *more = get_args(get_args(annotation)[1]) or (get_args(annotation)[1],)
        limits = [m for field in more for m in getattr(field, "metadata", [])]
        limits += getattr(get_args(annotation)[1], "__metadata__", [])
        limits = [m for each in limits for m in getattr(each, "metadata", [each])]
        keys = dice.sample(("*.attn2.*", "mid", "up.1", "down.0", "a = b"), dice.randint(0, 3))
        return {key: _number(dice, inner, limits) for key in keys}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        chosen = {
            name: _value(dice, name, info)
            for name, info in annotation.model_fields.items()
            if info.is_required() or dice.random() < _SHARE_SET
        }
        return {name: value for name, value in chosen.items() if value is not None}
    raise AssertionError(f"no values for {annotation}")


def _number(dice: random.Random, kind: Any, bounds: list[Any]) -> int | float:
    low = max((b for m in bounds for b in (getattr(m, "ge", None), getattr(m, "gt", None))
               if b is not None), default=0)  # fmt: skip
    high = min((b for m in bounds for b in (getattr(m, "le", None), getattr(m, "lt", None))
                if b is not None), default=low + 1000)  # fmt: skip
    if kind is int:
        step = next((m.multiple_of for m in bounds if getattr(m, "multiple_of", None)), 1)
        top = high - 1 if any(getattr(m, "lt", None) is not None for m in bounds) else high
        return dice.randint(-(-low // step), top // step) * step
    share = dice.choice((0.001, 0.1, 0.5, 0.999)) * dice.random() + 1e-6
    return float(low + (high - low) * share)
