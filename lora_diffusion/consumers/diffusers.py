"""diffusers 0.42's `load_lora_weights` with transformers 5. No torch, no diffusers.

Files of kohya's names are converted, all others must be named `unet.PATH`, `text_encoder.PATH`.
Ranks follow each layer. alpha does so only where its name survives the conversion: one alpha, the
most common of a model, is taken for the attention of the UNet and for text encoders.
`dora_scale` is left out with a warning. What cannot be renamed makes it raise.
Source: huggingface/diffusers 0.42, loaders/lora_conversion_utils.py, lora_pipeline.py,
lora_base.py, peft.py, utils/state_dict_utils.py, peft_utils.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from lora_diffusion.consumers.report import Reading, Report
from lora_diffusion.consumers.sd_scripts import strict_shapes
from lora_diffusion.consumers.target import Target, prefixed
from lora_diffusion.consumers.view import KIND_WORDS, KOHYA, PEFT, FileView, Module
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET, LayerKey

NAME = "diffusers"
_KOHYA_PREFIXES = ("lora_te_", "lora_unet_", "lora_te1_", "lora_te2_")
_DOTTED = tuple(f"{part}." for part in (UNET, TEXT_ENCODER, TEXT_ENCODER_2))
_ORIGINAL = ("input_blocks", "middle_block", "output_blocks")
_RENAMED = ("down_blocks", "mid_block", "up_blocks")
_ATTENTION = re.compile(r".*\.attn[12]\.to_(q|k|v|out\.0)")
Placed = list[tuple[Module, LayerKey]]


def read(view: FileView, target: Target) -> Report:
    """What `load_lora_weights` takes of the file, on a pipeline of the target."""
    names = [name for name in view.shapes if "dora_scale" not in name]
    if all(name.startswith(_KOHYA_PREFIXES) for name in names):
        return _read_kohya(view, target)
    reading = Reading(NAME, view)
    nameless = [name for name in names if "lora" not in name]
    if nameless:
        return reading.refused(f"it refuses keys without 'lora' in them ('{nameless[0]}')")
    return _read_dotted(view, target)


def _read_kohya(view: FileView, target: Target) -> Report:
    reading = Reading(NAME, view)
    left = [*view.strays]
    for module in view.modules:
        if module.kind != "lora" or module.spelling != KOHYA or not module.is_whole:
            left += [name for leaf, name in module.names.items() if leaf != "dora_scale"]
    if left:
        kind = next((m.kind for m in view.modules if left[0] in m.names.values()), "")
        return reading.refused(f"it refuses keys that it cannot rename: {KIND_WORDS[kind]}")
    names = _kohya_names(target)
    mixed = all(_any_has(view.shapes, words) for words in (_ORIGINAL, _RENAMED))
    placed: Placed = []
    for module in view.modules:
        key = names.get(module.stem)
        if mixed and target.arch == "sdxl" and _any_has([module.stem], _ORIGINAL):
            reading.drop_module(
                module, "of a file that mixes both, it drops the UNet's original names"
            )
        elif key is None:
            reading.drop_module(module, f"no layer of {target.name} has this name")
        else:
            placed.append((module, key))
            if "dora_scale" in module.names:
                reading.drop([module.names["dora_scale"]], "it leaves dora_scale out")
                reading.differ(module, "without dora_scale it is a plain LoRA, another delta")
    problem = _text_problem(placed, target, converted=True) or _shape_problem(placed, target)
    if problem:
        return reading.refused(problem)
    for part in {key.part for _, key in placed}:
        own = [(module, key) for module, key in placed if key.part == part]
        if part != UNET and not _has_out(own):
            lost = [module for module, key in own if ".self_attn." in key.path]
            for module in lost:
                reading.drop_module(
                    module, "without out_proj in the file it drops the text encoder's q, k and v"
                )
            own_left = [(module, key) for module, key in own if module not in lost]
        else:
            own_left = own
        _compare_alphas(reading, part, own, own_left)
    return reading.report()


def _read_dotted(view: FileView, target: Target) -> Report:
    reading = Reading(NAME, view)
    reading.drop(view.strays, "no layer has this key")
    placed: Placed = []
    names = {f"{key.part}.{key.path}": key for key in target.shapes}
    for module in view.modules:
        key = names.get(_modern(module.stem))
        if not module.stem.startswith(_DOTTED):
            reading.drop_module(module, "names without unet. or text_encoder. are not read")
        elif key is None:
            reading.drop_module(module, f"no layer of {target.name} has this name")
        elif module.kind != "lora" or not module.is_whole:
            reading.drop_module(module, f"it does not read {KIND_WORDS[module.kind]}")
        else:
            placed.append((module, key))
    problem = _text_problem(placed, target, converted=False) or _shape_problem(placed, target)
    return reading.refused(problem) if problem else reading.report()


def _kohya_names(target: Target) -> dict[str, LayerKey]:
    unet = {
        name: key
        for name, key in target.text(UNET).items()
        if not name.startswith("add_embedding")  # its number is lost
    }
    names = prefixed("lora_unet_", unet)
    if target.arch == "sdxl":
        names |= prefixed("lora_unet_", target.original_unet)
        names |= prefixed("lora_te2_", target.text(TEXT_ENCODER_2))
    for prefix in ("lora_te_", "lora_te1_"):
        names |= prefixed(prefix, target.text(TEXT_ENCODER))
    return names


def _modern(stem: str) -> str:
    """A dotted name of the old attention processors as today's models have it."""
    part, _, path = stem.partition(".")
    path = path.replace(".processor.", ".")
    if part == UNET:
        path = f"{path}.0" if path.endswith(".to_out") else path
    else:
        path = re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", path)
        path = path if path.startswith(("text_model.", "text_projection")) else f"text_model.{path}"
    return f"{part}.{path}"


def _text_problem(placed: Placed, target: Target, *, converted: bool) -> str:
    """Why loading a text encoder raises; "" if it does not.

    The kind of names is guessed from what is there, and some sets give nothing to guess by.
    """
    for part in (TEXT_ENCODER, TEXT_ENCODER_2):
        own = [(module, key) for module, key in placed if key.part == part]
        if not own:
            continue
        has_mlp = any(".mlp." in key.path for _, key in own)
        has_attention = any(".self_attn." in key.path for _, key in own)
        if converted and not (_has_out(own) or has_mlp):
            return f"it raises: of the {part}'s layers, out_proj or mlp must be in the file"
        if not converted and not has_attention and own[0][0].spelling == PEFT:
            return f"it raises: of the {part}'s layers, one of the attention must be in the file"
    return ""


def _shape_problem(placed: Placed, target: Target) -> str:
    for module, key in placed:
        weight = target.shapes[key]
        if weight and strict_shapes(module) != weight:
            return f"it raises: '{module.stem}' has other shapes than the layer of {target.name}"
    return ""


def _compare_alphas(reading: Reading, part: str, told: Placed, applied: Placed) -> None:
    """Where the alpha it takes is not the layer's own; it reads the alphas of the layers `told`."""
    alphas = [module.alpha for module, _ in told if module.alpha is not None]
    if not alphas:
        return  # alpha counts as the rank everywhere, which is what it means
    common = Counter(alphas).most_common(1)[0][0]
    for module, key in applied:
        own = module.alpha if module.alpha is not None and _keeps_alpha(key) else common
        if own != module.meant_alpha:
            where = "the UNet's attention" if part == UNET else f"the {part}"
            reading.differ(module, f"one alpha, the most common, counts for all layers of {where}")


def _keeps_alpha(key: LayerKey) -> bool:
    """Whether alpha's name survives the conversion."""
    if key.part == UNET:
        return _ATTENTION.fullmatch(key.path) is None
    # transformers 5 has no text_model level in the first encoder, and the names here have
    return key.part == TEXT_ENCODER_2 and ".self_attn." not in key.path


def _has_out(placed: Sequence[tuple[Module, LayerKey]]) -> bool:
    return any(key.path.endswith(".out_proj") for _, key in placed)


def _any_has(names: Iterable[str], words: Sequence[str]) -> bool:
    return any(word in name for name in names for word in words)
