"""InvokeAI's model manager and its patches. No torch.

First the base must be recognised, by the width of the text features or by SDXL's depth; then keys
are split at their first dot, SDXL's original names are turned into diffusers', and each group of
leaves becomes one patch, found in the model by its flattened name.
Source: invoke-ai/InvokeAI, backend/model_manager/configs/lora.py and util/model_util.py,
backend/patches/lora_conversions/, backend/patches/layers/, layer_patcher.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lora_diffusion.consumers.comfy_lora import has_elements, misfit
from lora_diffusion.consumers.report import Reading, Report
from lora_diffusion.consumers.target import Target, prefixed
from lora_diffusion.consumers.view import KIND_WORDS, KOHYA, FileView, Module
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET, LayerKey

NAME = "invokeai"
_KINDS = frozenset({"lora", "tucker", "loha", "lokr", "full", "norm"})
_PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_BASES = {768: "sd15", 1024: "sd21", 1280: "sdxl", 2048: "sdxl"}
_EMBEDDING = "bundle_emb"
_UNET_TEXT = re.compile(r"lora_unet_.*_attn2_to_[kv]")
_DEEP_BLOCK = re.compile(
    r"lora_unet_(?:(?:down|up)_blocks_\d+_attentions_\d+|mid_block_attentions_\d+"
    r"|(?:input|output)_blocks_\d+_\d+|middle_block_\d+)_transformer_blocks_(\d+)_.*"
)


def read(view: FileView, target: Target) -> Report:
    """What InvokeAI takes of the file."""
    reading = Reading(NAME, view)
    if not any(name.startswith(_PREFIXES) for name in view.shapes):
        return reading.refused("it takes no file without kohya's names (lora_unet_, lora_te_…)")
    base = _recognised(view)
    if base is None:
        return reading.refused(
            "it cannot tell the base: no cross-attention key or value and no text encoder of a "
            "width that it knows"
        )
    if base != target.arch:
        return reading.refused(f"it takes the file for one of another base ({base})")
    reading.drop([n for n in view.strays if n.startswith(_EMBEDDING)], "it leaves embeddings out")
    strange = [n for n in view.strays if not n.startswith(_EMBEDDING)]
    modules = [m for m in view.modules if not m.stem.startswith(_EMBEDDING)]
    unknown = [m for m in modules if m.kind not in _KINDS or _is_broken(m)]
    if strange or unknown:
        what = strange[0] if strange else f"{unknown[0].stem}: {KIND_WORDS[unknown[0].kind]}"
        return reading.refused(f"it refuses the file for a key that it does not know ({what})")
    if target.arch == "sdxl":
        refusal = _sdxl_refusal(modules, target)
        if refusal:
            return reading.refused(refusal)
    names = _names(target)
    for module in modules:
        key = names.get(module.stem)
        if key is None:
            reading.drop_module(module, f"no layer of {target.name} has this name")
        elif not has_elements(module, target.shapes[key]):
            reading.drop_module(module, misfit(target))
        elif module.magnitude_axis == "out":
            reading.differ(module, "DoRA per output is divided by the norms of inputs")
    return reading.report()


def _is_broken(module: Module) -> bool:
    """Whether making a patch of these leaves raises."""
    if module.kind in ("lora", "tucker"):
        return module.spelling != KOHYA or not module.is_whole
    return "dora_scale" in module.names  # looks for lora_up and lora_down then


def _names(target: Target) -> dict[str, LayerKey]:
    names = prefixed("lora_unet_", target.text(UNET))
    if target.arch == "sdxl":
        names |= prefixed("lora_unet_", target.original_unet)
        names |= prefixed("lora_te1_", target.text(TEXT_ENCODER))
        return names | prefixed("lora_te2_", target.text(TEXT_ENCODER_2))
    return names | prefixed("lora_te_", target.text(TEXT_ENCODER))


def _sdxl_refusal(modules: list[Module], target: Target) -> str:
    """Why SDXL's names are not converted; "" if they are."""
    alien = [
        m.stem for m in modules if not m.stem.startswith(("lora_unet_", "lora_te1_", "lora_te2_"))
    ]
    if alien:
        return f"it refuses '{alien[0]}': SDXL's text encoders are lora_te1_ and lora_te2_"
    original = prefixed("lora_unet_", target.original_unet)
    unet = [m.stem for m in modules if m.stem.startswith("lora_unet_")]
    converted = sum(stem in original for stem in unet)
    if 0 < converted < len(unet):
        return "it refuses a file that mixes the original names of UNet layers with diffusers'"
    return ""


def _recognised(view: FileView) -> str | None:
    """The base by the first key of the file that tells a width; else SDXL by its depth."""
    by_stem = {module.stem: module for module in view.modules}
    encoders: dict[str, int] = {}
    for name in view.shapes:
        stem, _, leaf = name.partition(".")
        width = _width(by_stem.get(stem), leaf)
        if width is None:
            continue
        if _UNET_TEXT.fullmatch(stem) or "time_emb_proj.lora_down" in name:
            return _BASES.get(width)
        if stem.startswith("lora_te") and "_self_attn_" in stem:
            if stem.startswith("lora_te_"):
                return _BASES.get(width)
            encoders[stem[: len("lora_te1_")]] = width
            if {"lora_te1_", "lora_te2_"} <= encoders.keys():
                return _BASES.get(encoders["lora_te1_"] + encoders["lora_te2_"])
    return "sdxl" if _is_deep(by_stem) else None


def _width(module: Module | None, leaf: str) -> int | None:
    """Inputs of the layer, as this leaf tells them."""
    if module is None:
        return None
    shape = module.shapes
    if leaf == "lora_down.weight":
        return _second(shape, "down")
    if leaf in ("hada_w1_b", "hada_w2_b", "diff"):
        return _second(shape, leaf)
    if leaf.startswith("lokr_"):  # of whole factors only
        first, second = _second(shape, "lokr_w1"), _second(shape, "lokr_w2")
        return first * second if first and second else None
    return None


def _second(shapes: Mapping[str, tuple[int, ...]], leaf: str) -> int | None:
    shape = shapes.get(leaf, ())
    return shape[1] if len(shape) > 1 else None


def _is_deep(stems: Mapping[str, object]) -> bool:
    """Whether an attention has three or more blocks, which only SDXL's have."""
    found = (_DEEP_BLOCK.fullmatch(stem) for stem in stems)
    return any(match is not None and int(match[1]) >= 2 for match in found)
