"""The layers that a base model may have, by canonical path. No torch.

A grammar, not one model's list: every `UNet2DConditionModel` of the Stable Diffusion 1, 2 and XL
class and every CLIP text encoder, whatever its depth, is covered, so small models of the same class
are read by the same table. Whether a given base really has a layer is a question for that base.

Flattening a path (dots to underscores) loses information, so a reader must look flattened names up
here instead of guessing; `by_flat_name` can promise that because no two paths flatten alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from types import MappingProxyType

from lora_diffusion.keys import PARTS, TEXT_ENCODER, TEXT_ENCODER_2, UNET, LayerKey

MAX_BLOCKS = 4
MAX_UNITS = 3  # resnets or attentions in one block
MAX_TRANSFORMERS = 10  # SDXL's deepest transformer
MAX_CLIP_LAYERS = 32  # OpenCLIP bigG

_ATTENTION = tuple(
    f"{attention}.{projection}"
    for attention, projection in product(("attn1", "attn2"), ("to_q", "to_k", "to_v", "to_out.0"))
)
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
_RESNET = ("conv1", "conv2", "conv_shortcut", "time_emb_proj")
_CONVOLUTIONS = ("conv_in", "conv_out", "conv1", "conv2", "conv")  # 3 x 3
_CLIP_LAYER = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)


def unet_paths() -> Iterator[str]:
    """Every path that can be adapted in a UNet, in model order."""
    yield "conv_in"
    yield from ("time_embedding.linear_1", "time_embedding.linear_2")
    yield from ("add_embedding.linear_1", "add_embedding.linear_2")  # SDXL: size and crop
    for block in range(MAX_BLOCKS):
        yield from _block_paths(f"down_blocks.{block}")
        yield f"down_blocks.{block}.downsamplers.0.conv"
    yield from _block_paths("mid_block")
    for block in range(MAX_BLOCKS):
        yield from _block_paths(f"up_blocks.{block}")
        yield f"up_blocks.{block}.upsamplers.0.conv"
    yield "conv_out"


def clip_paths() -> Iterator[str]:
    """Every path that can be adapted in a CLIP text encoder, in model order."""
    for layer, leaf in product(range(MAX_CLIP_LAYERS), _CLIP_LAYER):
        yield f"text_model.encoder.layers.{layer}.{leaf}"


def projected_clip_paths() -> Iterator[str]:
    """`clip_paths`, and the projection that SDXL's second text encoder has."""
    yield from clip_paths()
    yield "text_projection"


def flatten(path: str) -> str:
    """A canonical path as kohya-style keys spell it."""
    return path.replace(".", "_")


@cache
def by_flat_name(part: str) -> Mapping[str, LayerKey]:
    """Flattened name -> key, of every layer that `part` can have. The table is shared and fixed.

    Raises:
        KeyError: `part` is none of `keys.PARTS`.
    """
    assert set(_GRAMMARS) == set(PARTS)
    table: dict[str, LayerKey] = {}
    for path in _GRAMMARS[part]():
        name = flatten(path)
        assert name not in table, f"{path} flattens like {table[name].path}"
        table[name] = LayerKey(part, path)
    return MappingProxyType(table)


def is_layer(key: LayerKey) -> bool:
    """Whether a base model may have such a layer."""
    return key.part in PARTS and by_flat_name(key.part).get(flatten(key.path)) == key


def kernel_of(key: LayerKey) -> tuple[int, ...]:
    """The kernel of a layer that is a convolution above 1 x 1 in every UNet; else nothing."""
    last = key.path.rpartition(".")[2]
    return (3, 3) if key.part == UNET and last in _CONVOLUTIONS else ()


_GRAMMARS = {
    UNET: unet_paths,
    TEXT_ENCODER: clip_paths,
    TEXT_ENCODER_2: projected_clip_paths,
}


def _block_paths(block: str) -> Iterator[str]:
    for unit in range(MAX_UNITS):
        for leaf in _RESNET:
            yield f"{block}.resnets.{unit}.{leaf}"
    for unit in range(MAX_UNITS):
        transformer = f"{block}.attentions.{unit}"
        yield f"{transformer}.proj_in"
        for index, leaf in product(range(MAX_TRANSFORMERS), (*_ATTENTION, *_FEED_FORWARD)):
            yield f"{transformer}.transformer_blocks.{index}.{leaf}"
        yield f"{transformer}.proj_out"
