"""cloneofsimo's `lora_diffusion` files: `unet:0:up`, `unet:0:down`, `text_encoder:0:up`. No torch.

Layers have numbers instead of names: the order in which the trainer's search met them. It went
through the modules of some classes (told in the metadata as `["CrossAttention", "GEGLU", …]`) and
took every linear layer in them. The UNet's transformer blocks come as diffusers holds them (down,
up, middle), each with the attentions' `to_q to_k to_v to_out.0` and, if chosen, the feed-forward's
first layer: between the attentions in diffusers of the time, after them later. Shapes show which.
CLIP's attention holds `k v q out`. There is no alpha: the delta is up @ down.

Read only; the tool is no longer developed, and others read kohya's form.
Source: cloneofsimo/lora, lora_diffusion/lora.py, `save_safeloras` and `_find_modules_v2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from lora_diffusion.errors import printable
from lora_diffusion.formats.header import refuse
from lora_diffusion.formats.metadata import parsed
from lora_diffusion.formats.spelling import (
    DOWN,
    UP,
    Named,
    Spelling,
    refuse_unknown,
    split_embeddings,
)
from lora_diffusion.keys import TEXT_ENCODER, UNET, LayerKey

NAME = re.compile(r"(?P<part>unet|text_encoder):(?P<index>\d{1,4}):(?P<leaf>up|down)")

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_CLIP = ("k_proj", "v_proj", "q_proj", "out_proj")
_FEED_FORWARD = "ff.net.0.proj"
# Transformers of SD 1.x and 2.x in the order of the module tree.
_TRANSFORMERS = (
    *(f"down_blocks.{block}.attentions.{unit}" for block in range(3) for unit in range(2)),
    *(f"up_blocks.{block}.attentions.{unit}" for block in range(1, 4) for unit in range(3)),
    "mid_block.attentions.0",
)
_KNOWN_CLASSES = {"CrossAttention", "Attention", "GEGLU", "CLIPAttention"}
_FIX = "Convert it with the tool that made it, or export a LoRA in kohya's form."


def spell_legacy(
    source: str | Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]
) -> Spelling:
    """What the numbers in the tensor names mean.

    Raises:
        AdapterFileError: other layers were trained than attention and the feed-forward's first, or
            their number or shapes are not those of a Stable Diffusion 1.x or 2.x model.
    """
    names, embeddings = split_embeddings(shapes)
    refuse_unknown(
        source,
        [name for name in names if not NAME.fullmatch(name)],
        "are not named like the others",
        _FIX,
    )
    tensors: dict[str, Named] = {}
    for part in (UNET, TEXT_ENCODER):
        count = len({name.split(":")[1] for name in names if name.startswith(f"{part}:")})
        if not count:
            continue
        _check_classes(source, part, metadata)
        for index, path in enumerate(_paths(source, part, count, shapes)):
            key = LayerKey(part, path)
            for leaf in (UP, DOWN):
                name = f"{part}:{index}:{leaf}"
                if name not in shapes:
                    refuse(source, f"it has no '{name}'", "The file is incomplete.")
                tensors[name] = Named(key, leaf, f"{part}:{index}")
    if len(tensors) != len(names):
        refuse(source, "its layers are not numbered from 0 on", "The file is incomplete.")
    return Spelling(tensors, embeddings=embeddings)


def _check_classes(source: str | Path, part: str, metadata: Mapping[str, str]) -> None:
    classes = parsed(metadata.get(part, "[]"))
    stated = classes if isinstance(classes, list) else []
    other = [str(name) for name in stated if str(name) not in _KNOWN_CLASSES]
    if other:
        refuse(
            source,
            f"its layers are numbered through the modules of '{printable(other[0], 60)}', whose "
            "order isn't known",
            _FIX,
        )


def _paths(
    source: str | Path, part: str, count: int, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    if part == TEXT_ENCODER:
        if count % len(_CLIP):
            refuse(source, f"it has {count} text-encoder layers, not four for each block", _FIX)
        for index in range(count):
            block, place = divmod(index, len(_CLIP))
            yield f"text_model.encoder.layers.{block}.self_attn.{_CLIP[place]}"
        return
    plain = [f"attn1.{layer}" for layer in _ATTENTION], [f"attn2.{layer}" for layer in _ATTENTION]
    per_block, left = divmod(count, len(_TRANSFORMERS))
    if left or per_block not in (8, 9):
        refuse(
            source,
            f"it has {count} UNet layers, which is not 8 or 9 for each of the 16 transformer "
            "blocks of Stable Diffusion 1.x and 2.x",
            _FIX,
        )
    for number, transformer in enumerate(_TRANSFORMERS):
        first = number * per_block
        layers = [*plain[0], *plain[1]]
        if per_block == 9:
            after = next((i for i in (4, 8) if _is_feed_forward(first + i, shapes)), None)
            if after is None:
                refuse(source, f"none of the layers of '{transformer}' is a feed-forward", _FIX)
            layers.insert(after, _FEED_FORWARD)
        for layer in layers:
            yield f"{transformer}.transformer_blocks.0.{layer}"


def _is_feed_forward(index: int, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """GEGLU's layer is eight times as wide as it is deep: twice the four of a plain one."""
    up, down = shapes.get(f"{UNET}:{index}:up", ()), shapes.get(f"{UNET}:{index}:down", ())
    return len(up) == 2 and len(down) == 2 and up[0] == 8 * down[1]
