"""OpenCLIP's text encoder under CLIP's names in transformers.

SD2.x and SDXL checkpoints hold it as OpenCLIP saves it: query, key and value in one matrix, and a
projection that is multiplied from the right. Source of the names: open_clip, `TextTransformer`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lora_diffusion.families.weights import PROJECTION

_BLOCKS = "transformer.resblocks."
_OUTER = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_JOINT = "attn.in_proj_"
_SPLIT = ("q_proj", "k_proj", "v_proj")
# What the encoder does not use: CLIP's temperature, and a mask that follows from its length.
_UNUSED = ("logit_scale", "attn_mask")


def used_names(names: Mapping[str, object], prefix: str, layers: int, projected: bool) -> list[str]:
    """The tensors in `names` that make up an encoder of the first `layers` layers.

    projected: whether the text projection belongs to it.
    """
    used = []
    for name in names:
        bare = name.removeprefix(prefix)
        if not name.startswith(prefix) or bare in _UNUSED:
            continue
        if bare == "text_projection" and not projected:
            continue
        if bare.startswith(_BLOCKS):
            number = bare.removeprefix(_BLOCKS).split(".", 1)[0]
            if number.isdecimal() and int(number) >= layers:
                continue
        used.append(name)
    return used


def converted(tensors: Mapping[str, Tensor], level: str) -> dict[str, Tensor]:
    """`tensors`, named as OpenCLIP names them (without prefix), under CLIP's names.

    Names that are none of OpenCLIP's stay as they are, so that they are found to be too many.

    Args:
        level: what stands before CLIP's names in the model: `text_model.` or nothing.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "text_projection":  # [width, projection]
            result[PROJECTION] = tensor.T.contiguous()
        elif name in _OUTER:
            result[level + _OUTER[name]] = tensor
        elif name.startswith(_BLOCKS) and name.count(".") > _BLOCKS.count("."):
            number, inside = name.removeprefix(_BLOCKS).split(".", 1)
            result.update(_layer(f"{level}encoder.layers.{number}.", inside, tensor))
        else:
            result[name] = tensor
    return result


def _layer(place: str, inside: str, tensor: Tensor) -> dict[str, Tensor]:
    """One tensor of a layer: renamed, or `[3 * width, …]` cut in three."""
    if inside.startswith(_JOINT) and tensor.shape[0] % len(_SPLIT) == 0:
        leaf = inside.removeprefix(_JOINT)
        thirds = tensor.chunk(len(_SPLIT))
        return {
            f"{place}self_attn.{name}.{leaf}": third.contiguous()
            for name, third in zip(_SPLIT, thirds, strict=True)
        }
    module, _, leaf = inside.rpartition(".")
    return {f"{place}{_INNER.get(module, module)}.{leaf}": tensor}
