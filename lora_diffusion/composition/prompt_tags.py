"""Adapters in prompts, as A1111's users type them: `a castle <lora:ink:0.8>`. No torch.

`<lora:NAME:TEXT:UNET>`: a single number is for both, two are the text encoder's and the UNet's, in
A1111's order; also named, `te=0.5`, `unet=1`. `lbw=1,0,…` is a list of block weights.
Source: AUTOMATIC1111/stable-diffusion-webui, extensions-builtin/Lora/extra_networks_lora.py and
modules/extra_networks.py (the tag is cut out, nothing else of the prompt changes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lora_diffusion.composition.weights import TEXT, Weights
from lora_diffusion.errors import InputError, printable
from lora_diffusion.keys import UNET

_TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>", re.IGNORECASE)
_HELP = "Write it like '<lora:name:0.8>'."
_A1111 = {"te", "unet", "lbw"}  # the names it knows


@dataclass(frozen=True)
class PromptTag:
    """One adapter that a prompt names.

    Attributes:
        name: a file's name without its ending, or what its metadata call it.
        weights: how strongly it acts.
    """

    name: str
    weights: Weights

    def __str__(self) -> str:
        """The tag that a prompt would have; of weights that A1111 knows, in its own words."""
        weights = self.weights
        if not weights.blocks and not weights.steps:
            if not weights.models:
                return f"<lora:{self.name}:{weights.overall:g}>"
            if weights.models.keys() <= {TEXT, UNET}:
                text, unet = (
                    weights.overall * weights.models.get(model, 1.0) for model in (TEXT, UNET)
                )
                return f"<lora:{self.name}:{text:g}:{unet:g}>"
        return f"<lora:{self.name}:{weights}>"


def read_tags(prompt: str) -> tuple[str, tuple[PromptTag, ...]]:
    """`prompt` without its tags, and the adapters that they name, in order.

    Raises:
        InputError: a tag that names nothing, or weights that cannot be read.
    """
    tags = tuple(_tag(found[1], found[0]) for found in _TAG.finditer(prompt))
    return _TAG.sub("", prompt).strip() if tags else prompt, tags


def _tag(inside: str, whole: str) -> PromptTag:
    name, *values = (part.strip() for part in inside.split(":"))
    if not name:
        raise InputError(f"The tag '{printable(whole, 80)}' names no adapter. {_HELP}")
    try:
        return PromptTag(name, _weights(values))
    except InputError as error:
        raise InputError(f"The tag '{printable(whole, 80)}': {error}") from None


def _weights(values: list[str]) -> Weights:
    numbers = [value for value in values if "=" not in value]
    pairs = [value.partition("=") for value in values if "=" in value]
    named = {name.strip().lower(): value for name, _, value in pairs}
    if not named.keys() <= _A1111 or any("," in number for number in numbers):
        return Weights.parse(":".join(values))  # our own words
    if len(numbers) > 2:
        raise InputError(f"it has more than two numbers. {_HELP}")
    blocks = Weights.parse(f"lbw={named['lbw']}") if "lbw" in named else Weights()
    text = named.get("te", numbers[0] if numbers else "1")
    unet = named.get("unet", numbers[1] if len(numbers) > 1 else text)
    told = Weights.parse(text if text == unet else f"{TEXT}={text},{UNET}={unet}")
    models = {
        name: told.models.get(name, 1.0) * blocks.models.get(name, 1.0)
        for name in (*told.models, *blocks.models)
    }
    return Weights(told.overall, models, blocks.blocks)
