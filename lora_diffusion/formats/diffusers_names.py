"""How diffusers' and PEFT's files name tensors: a dotted path and a leaf. No torch.

- diffusers today: `unet.PATH.lora_A.weight`, `lora_B.weight`, `lora_magnitude_vector`; text
  encoders under `text_encoder.`, `text_encoder_2.`. It has no alpha: the delta is B A, unless the
  metadata hold PEFT's configuration (`lora_adapter_metadata`). Other tools write `PATH.alpha`.
- diffusers before PEFT: `PATH.lora.down.weight`, `lora.up.weight`; text encoders
  `lora_linear_layer.down.weight`.
- diffusers' attention processors, the oldest: `…attn1.processor.to_q_lora.down.weight`, also
  without the leading `unet.`; text encoders `…self_attn.to_q_lora.down.weight`.
- PEFT: one file a model, `base_model.model.PATH.lora_A.weight`, alpha in `adapter_config.json`.

CLIP's paths come with or without `text_model`, which transformers 5 took out of one class.
Source: huggingface/diffusers, src/diffusers/utils/state_dict_utils.py and loaders/lora_base.py;
huggingface/peft, src/peft/utils/save_and_load.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lora_diffusion.errors import printable
from lora_diffusion.formats.header import refuse
from lora_diffusion.formats.layer_names import is_layer
from lora_diffusion.formats.metadata import parsed
from lora_diffusion.formats.peft_config import layer_alphas
from lora_diffusion.formats.spelling import (
    ALPHA,
    DOWN,
    MAGNITUDE,
    UP,
    Leaf,
    Named,
    Spelling,
    refuse_unknown,
    split_embeddings,
)
from lora_diffusion.keys import PARTS, TEXT_ENCODER, UNET, LayerKey

PEFT_PREFIX = "base_model.model."
CONFIG_KEY = "lora_adapter_metadata"  # in a diffusers file's metadata: PEFT's configuration
CLIP_LEVEL = "text_model."

_ADAPTER = r"(?:\.default|\.default_0)?"  # an adapter's name, where a tool left it in
_LEAVES: tuple[tuple[re.Pattern[str], Leaf], ...] = (
    (re.compile(rf"(.+)\.lora_A{_ADAPTER}\.weight"), DOWN),
    (re.compile(rf"(.+)\.lora_B{_ADAPTER}\.weight"), UP),
    (re.compile(rf"(.+)\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?"), MAGNITUDE),
    (re.compile(r"(.+)\.(?:lora|lora_linear_layer)\.down\.weight"), DOWN),
    (re.compile(r"(.+)\.(?:lora|lora_linear_layer)\.up\.weight"), UP),
    (re.compile(r"(.+\.to_(?:q|k|v|out)_lora)\.down\.weight"), DOWN),
    (re.compile(r"(.+\.to_(?:q|k|v|out)_lora)\.up\.weight"), UP),
    (re.compile(r"(.+)\.alpha"), ALPHA),
)
# Last part of a path in the attention-processor form -> canonical.
_OLD_UNET: Final[Mapping[str, str]] = MappingProxyType(
    {"to_q_lora": "to_q", "to_k_lora": "to_k", "to_v_lora": "to_v", "to_out_lora": "to_out.0"}
)
_OLD_CLIP: Final[Mapping[str, str]] = MappingProxyType(
    {
        "to_q_lora": "q_proj",
        "to_k_lora": "k_proj",
        "to_v_lora": "v_proj",
        "to_out_lora": "out_proj",
    }
)
_FIX = "It is made for another kind of model, or by an unknown tool."


def spell_diffusers(
    source: str | Path,
    shapes: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, str],
) -> Spelling:
    """What the tensor names of a diffusers file mean, and the alphas its metadata tell.

    Raises:
        AdapterFileError: names that mean no layer of a Stable Diffusion model or no part of a
            LoRA; a configuration that is malformed or no LoRA's.
    """
    names, embeddings = split_embeddings(shapes)
    tensors: dict[str, Named] = {}
    unknown = []
    for name in names:
        part, dot, rest = name.partition(".")
        if part not in PARTS or not dot:
            part, rest = UNET, name  # the oldest files hold a UNet and don't say so
        place = _place(part, rest, name)
        if place is None:
            unknown.append(name)
        else:
            tensors[name] = place
    refuse_unknown(
        source, unknown, "belong to no LoRA layer of a Stable Diffusion 1.x, 2.x or XL model", _FIX
    )
    alphas: dict[LayerKey, float] = {}
    for part, config in _configs(source, metadata).items():
        alphas |= _alphas(source, config, tensors, shapes, part)
    return Spelling(tensors, alphas, peft_magnitudes=True, embeddings=embeddings)


def spell_peft(
    source: str | Path,
    part: str,
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, object],
) -> Spelling:
    """What the tensor names of PEFT's file of one model mean, and the alphas beside it.

    Args:
        part: which model it is.
        shapes: tensor name -> shape.
        config: the fields of `adapter_config.json`.

    Raises:
        AdapterFileError: as `spell_diffusers`.
    """
    tensors: dict[str, Named] = {}
    unknown = []
    for name in shapes:
        place = _place(part, name.removeprefix(PEFT_PREFIX), name)
        if place is None or not name.startswith(PEFT_PREFIX):
            unknown.append(name)
        else:
            tensors[name] = place
    refuse_unknown(source, unknown, f"belong to no LoRA layer of a Stable Diffusion {part}", _FIX)
    alphas = _alphas(source, config, tensors, shapes, part)
    return Spelling(tensors, alphas, peft_magnitudes=True)


def peft_part(source: str | Path, names: Collection[str]) -> str:
    """Which model PEFT's tensor names belong to: `unet` or `text_encoder`, as far as they tell."""
    paths = [name.removeprefix(PEFT_PREFIX) for name in names]
    for part in (UNET, TEXT_ENCODER):
        if any(_place(part, path, path) for path in paths):
            return part
    refuse(source, "none of its layers is one of a Stable Diffusion model", _FIX)


def canonical(part: str, path: str) -> LayerKey | None:
    """The layer that diffusers and PEFT call `path`, in any of their forms; None if there is none.

    Args:
        path: without leaf, part and PEFT's prefix.
    """
    path = path.replace(".processor.", ".")
    head, dot, last = path.rpartition(".")
    renamed = (_OLD_UNET if part == UNET else _OLD_CLIP).get(last)
    if renamed and dot:
        path = f"{head}.{renamed}"
    if part != UNET and path.startswith("encoder."):
        path = CLIP_LEVEL + path
    key = LayerKey(part, path)
    return key if is_layer(key) else None


def _place(part: str, rest: str, name: str) -> Named | None:
    """The place of the tensor `name`, which is `rest` without the part or PEFT's prefix."""
    for pattern, leaf in _LEAVES:
        match = pattern.fullmatch(rest)
        if match:
            key = canonical(part, match[1])
            return None if key is None else Named(key, leaf, name.removesuffix(rest) + match[1])
    return None


def _alphas(
    source: str | Path,
    config: Mapping[str, object],
    tensors: Mapping[str, Named],
    shapes: Mapping[str, tuple[int, ...]],
    part: str,
) -> dict[LayerKey, float]:
    """alpha of each layer of `part`. Patterns speak of paths as the file spells them."""
    ranks, keys = {}, {}
    for name, place in tensors.items():
        if place.key.part == part and place.leaf == DOWN and shapes[name]:
            path = place.stem.removeprefix(PEFT_PREFIX).removeprefix(f"{part}.")
            ranks[path], keys[path] = shapes[name][0], place.key
    return {keys[path]: alpha for path, alpha in layer_alphas(source, config, ranks).items()}


def _configs(source: str | Path, metadata: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """PEFT's configuration of each part, from diffusers' `{"unet.r": 4, …}`."""
    text = metadata.get(CONFIG_KEY)
    if text is None:
        return {}
    fields = parsed(text)
    if not isinstance(fields, dict):
        refuse(source, f"its metadata '{CONFIG_KEY}' is not a JSON object")
    configs: dict[str, dict[str, object]] = {}
    for name, value in fields.items():
        part, _, setting = name.partition(".")
        if part not in PARTS:
            refuse(source, f"its metadata '{CONFIG_KEY}' speaks of '{printable(name, 60)}'")
        configs.setdefault(part, {})[setting] = value
    return configs
