"""How strongly an adapter acts: one number, or one per model, block and denoising step. No torch.

As text, parts separated by commas, in any order:

| part | means |
| --- | --- |
| `0.8` | overall; 1 if left out |
| `unet=0.5`, `text=0`, `text_encoder_2=1` | factor of a model; `text` is all text encoders |
| `mid=0`, `down.1=0.3`, `up.2.0=1` | factor of a block of the UNet (`blocks` has the names) |
| `lbw=1,0,0.5,…` | 12, 17, 20 or 26 numbers, as A1111's users know them |
| `steps=0:1;0.5:0` | factor from a share of the steps on: here 1, and from the half on 0 |

The weight of a layer is the product of the four: overall, its model's, its block's, the step's. Of
two names that fit, the more particular one counts: `down.1.0` before `down.1` before `down`,
`text_encoder_2` before `text`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from lora_diffusion.composition.blocks import BASE, LISTS, block_name, blocks_of, from_list
from lora_diffusion.errors import InputError, printable
from lora_diffusion.keys import PARTS, UNET, LayerKey

MAX_WEIGHT = 100.0
TEXT = "text"
_MODELS = {"te": TEXT, "te1": "text_encoder", "te2": "text_encoder_2", TEXT: TEXT}
_MODELS |= {part: part for part in PARTS}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_HELP = "Write it like '0.8' or '0.8,text=0.5,mid=0,down.1=0.3,steps=0:1;0.5:0'."


@dataclass(frozen=True)
class Weights:
    """The weight of one adapter, layer by layer and step by step.

    Attributes:
        overall: of everything.
        models: factor by `unet`, `text` (all text encoders), `text_encoder`, `text_encoder_2`.
        blocks: factor by block of the UNet, as `blocks.block_name` spells them.
        steps: (share of the steps done, factor from there on), ascending; before the first, 1.

    Raises:
        InputError: an unknown name, a number that is not finite or beyond `MAX_WEIGHT`, or shares
            that do not ascend within 0..1.
    """

    overall: float = 1.0
    models: Mapping[str, float] = field(default_factory=dict)
    blocks: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for name, number in self._numbers():
            if not (math.isfinite(number) and abs(number) <= MAX_WEIGHT):
                raise InputError(
                    f"The weight {printable(name, 40)} is {number:g}; it must lie between "
                    f"{-MAX_WEIGHT:g} and {MAX_WEIGHT:g}."
                )
        for name in self.models:
            if name not in _MODELS.values():
                raise InputError(f"There is no model '{printable(name, 40)}'. {_HELP}")
        for name in self.blocks:
            if block_name(name) != name:
                raise InputError(f"The UNet has no block '{printable(name, 40)}'. {_HELP}")
        shares = [share for share, _ in self.steps]
        if shares != sorted(set(shares)) or not all(0 <= share < 1 for share in shares):
            raise InputError(
                "The shares of steps must ascend, from 0 up to less than 1: 'steps=0:1;0.5:0'."
            )

    @classmethod
    def parse(cls, text: str) -> Weights:
        """The weights that `text` says; see the head of this module.

        Raises:
            InputError: what cannot be understood, with what could be meant.
        """
        given: dict[str, list[str]] = {}
        last = ""
        for piece in text.split(","):
            name, equals, value = (part.strip() for part in piece.partition("="))
            if not equals:  # a number of the part before it
                name, value = last, name
            elif name in given or not name:
                raise InputError(f"'{printable(name, 40)}' is given twice or empty. {_HELP}")
            given.setdefault(name, []).append(value)
            last = name
        overall = _one(given.pop("", ["1"]), "")
        steps = _steps(given.pop("steps", None))
        models: dict[str, float] = {}
        blocks: dict[str, float] = {}
        if "lbw" in given:
            models[TEXT], blocks = _list([_number(n, "lbw") for n in given.pop("lbw")])
        for name, values in given.items():
            block = block_name(name)
            if name.lower() in _MODELS:
                models[_MODELS[name.lower()]] = _one(values, name)
            elif block:
                blocks[block] = _one(values, name)
            else:
                raise InputError(f"'{printable(name, 40)}' is no model and no block. {_HELP}")
        return cls(overall, models, blocks, steps)

    @classmethod
    def of_any(cls, given: AnyWeights) -> Weights:
        """Weights, a number, or text as `parse` takes it."""
        if isinstance(given, Weights):
            return given
        return cls.parse(given) if isinstance(given, str) else cls(float(given))

    def __str__(self) -> str:
        """Text that `parse` turns into equal weights."""
        named = [f"{name}={_short(n)}" for name, n in (*self.models.items(), *self.blocks.items())]
        if self.steps:
            points = ";".join(f"{_short(share)}:{_short(n)}" for share, n in self.steps)
            named.append(f"steps={points}")
        return ",".join([_short(self.overall), *named])

    def of(self, key: LayerKey, done: float = 0.0) -> float:
        """The weight of the layer `key` once the share `done` of the steps (0..1) is done."""
        if key.part == UNET:
            blocks = (self.blocks[name] for name in blocks_of(key.path) if name in self.blocks)
            model, block = self.models.get(UNET, 1.0), next(blocks, 1.0)
        else:
            model, block = self.models.get(key.part, self.models.get(TEXT, 1.0)), 1.0
        return self.overall * model * block * self.step_factor(done)

    def step_factor(self, done: float) -> float:
        """The schedule's factor once the share `done` of the steps is done."""
        reached = [factor for share, factor in self.steps if share <= done + 1e-9]
        return reached[-1] if reached else 1.0

    def times(self, factor: float) -> Weights:
        """The same with everything `factor` times as strong."""
        return replace(self, overall=self.overall * factor)

    def _numbers(self) -> Iterator[tuple[str, float]]:
        yield "overall", self.overall
        yield from self.models.items()
        yield from self.blocks.items()
        yield from (("in steps", factor) for _, factor in self.steps)


AnyWeights = Weights | float | str


def split_weight(text: str) -> tuple[str, Weights]:
    """A file and its weights out of `FILE:WEIGHTS`; without weights they are 1.

    The first colon after which weights can be read divides them, so that names with colons, and a
    drive's, stay whole.

    Raises:
        InputError: what stands after the last colon of a `.safetensors` name is no weights.
    """
    colons = [index for index, sign in enumerate(text) if sign == ":"]
    for index in colons:
        try:
            return text[:index], Weights.parse(text[index + 1 :])
        except InputError:
            continue
    name, ending, rest = text.partition(".safetensors:")
    if ending:
        try:
            Weights.parse(rest)
        except InputError as error:
            raise InputError(f"{printable(name)}.safetensors: {error}") from None
    return text, Weights()


def _one(values: list[str], name: str) -> float:
    if len(values) != 1:
        shown = ",".join(values)
        raise InputError(f"'{printable(shown, 60)}' is not one number. {_HELP}")
    return _number(values[0], name)


def _number(text: str, name: str) -> float:
    if not _NUMBER.fullmatch(text):
        where = f" of '{printable(name, 40)}'" if name else ""
        raise InputError(f"The weight '{printable(text, 40)}'{where} is not a number. {_HELP}")
    return float(text)


def _steps(values: list[str] | None) -> tuple[tuple[float, float], ...]:
    if values is None:
        return ()
    points = []
    for point in ",".join(values).split(";"):
        share, _, factor = point.partition(":")
        points.append((_number(share.strip(), "steps"), _number(factor.strip(), "steps")))
    return tuple(points)


def _list(numbers: list[float]) -> tuple[float, dict[str, float]]:
    found = from_list(numbers)
    if found is None:
        known = ", ".join(str(length) for length in LISTS)
        raise InputError(
            f"'lbw' has {len(numbers)} numbers; a list of block weights has {known}, the first for "
            f"{BASE}, the text encoder."
        )
    return found


def _short(number: float) -> str:
    """The shortest text that reads back as the same number."""
    return str(int(number)) if number == int(number) else repr(float(number))
