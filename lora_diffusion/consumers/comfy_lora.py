"""How ComfyUI, and Forge with a copy of its code, read an adapter. No torch.

A map from names to weights is made of the loaded model; what is not in the map is logged and left
out. UNet layers go by their original name and by diffusers', flattened (`lora_unet_`, `lycoris_`),
and by diffusers' dotted name in the form of its old attention processors: `to_q` is
`processor.to_q` there, `to_out.0` is `to_out`.
Source: comfyanonymous/ComfyUI, comfy/lora.py and comfy/weight_adapter/;
lllyasviel/stable-diffusion-webui-forge, packages_3rdparty/comfyui_lora_collection/lora.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from lora_diffusion.consumers.report import Reading
from lora_diffusion.consumers.target import Target, prefixed
from lora_diffusion.consumers.view import KIND_WORDS, FileView, Module
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET, LayerKey

_KINDS = frozenset({"lora", "tucker", "loha", "lokr", "glora", "full", "norm"})


def apply(reading: Reading, view: FileView, target: Target) -> None:
    """Tell `reading` what is left out and what comes out different."""
    names = names_of(target)
    reading.drop(view.strays, "no layer has this key")
    for module in view.modules:
        key = names.get(module.stem)
        if key is None:
            reading.drop_module(module, why_unknown(module, target))
        elif module.kind not in _KINDS or not module.is_whole:
            reading.drop_module(module, f"it does not read {KIND_WORDS[module.kind]}")
        elif not has_elements(module, target.shapes[key]):
            reading.drop_module(module, misfit(target))
        else:
            if "magnitude" in module.names:
                reading.drop([module.names["magnitude"]], "it does not read lora_magnitude_vector")
                reading.differ(module, "without its magnitude it is a plain LoRA, another delta")
            elif module.magnitude_axis == "out":
                reading.differ(
                    module, "for DoRA per output it takes the norm of W, not of W + delta"
                )
            if module.stated_alpha is not None and module.alpha is None:
                differ_by_missing_alpha(reading, module)


def names_of(target: Target) -> dict[str, LayerKey]:
    """Stem -> layer, of everything that the loaded model can be patched by."""
    plain = target.text(UNET)
    names = prefixed("lora_unet_", target.original_unet)
    names |= prefixed("lora_unet_", plain) | prefixed("lycoris_", plain)
    for key in plain.values():
        dotted = key.path.replace(".to_", ".processor.to_")
        dotted = dotted.removesuffix(".0") if dotted.endswith(".to_out.0") else dotted
        names |= {dotted: key, f"unet.{dotted}": key}
    clip = _without_projection(target.text(TEXT_ENCODER))
    for prefix in ("lora_te_", "lora_te1_"):
        names |= prefixed(prefix, clip)
    names |= {f"text_encoder.{key.path}": key for key in clip.values()}
    second = target.text(TEXT_ENCODER_2)
    names |= prefixed("lora_te2_", second)
    names |= {f"text_encoder_2.{key.path}": key for key in _without_projection(second).values()}
    return names


def why_unknown(module: Module, target: Target) -> str:
    """Why no layer of the target goes by the stem of `module`."""
    stem = module.stem
    if "base_model.model." in stem:
        return "PEFT's names (base_model.model.…) are not read"
    if stem.startswith("unet.") and ".to_" in stem and ".processor." not in stem:
        return "diffusers' names of attention layers are read only in the old form (processor.to_q)"
    return f"no layer of {target.name} has this name"


def misfit(target: Target) -> str:
    """Why a layer of another size is not applied: found out only when it is, and logged."""
    return f"its shape is not that of the layer in {target.name}"


def has_elements(module: Module, weight: tuple[int, ...]) -> bool:
    """Whether the update has as many numbers as the weight, which is then reshaped."""
    return not weight or module.elements is None or module.elements == math.prod(weight)


def differ_by_missing_alpha(reading: Reading, module: Module) -> None:
    """A reader that looks for alpha only in a tensor takes the scale 1 where there is none."""
    if module.meant_alpha != module.rank:
        reading.differ(module, "alpha is stated in the metadata only, so the scale is taken for 1")


def _without_projection(names: Mapping[str, LayerKey]) -> dict[str, LayerKey]:
    return {name: key for name, key in names.items() if key.path != "text_projection"}
