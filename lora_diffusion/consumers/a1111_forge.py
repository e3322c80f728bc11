"""A1111's and Forge's `<lora:…>`: a key counts only if both take it. No torch.

Forge reads as ComfyUI does, and refuses a file of which it has no use for more than 12 keys. A1111
looks layers up by their original names and knows diffusers' flattened ones. Its OpenCLIP encoders
(SD 2.x, SDXL's second) keep q, k and v in one tensor, which is patched only if all four parts of
the attention are in the file.
Source: AUTOMATIC1111/stable-diffusion-webui, extensions-builtin/Lora/networks.py, network.py;
lllyasviel/stable-diffusion-webui-forge, extensions-builtin/sd_forge_lora/networks.py.
"""

from __future__ import annotations

from collections import Counter

from lora_diffusion.consumers import comfy_lora
from lora_diffusion.consumers.report import Reading, Report
from lora_diffusion.consumers.target import Target, prefixed
from lora_diffusion.consumers.view import KIND_WORDS, KOHYA, FileView, Module
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET, LayerKey

NAME = "a1111-forge"
_FORGE_LIMIT = 12
_KINDS = frozenset({"lora", "tucker", "loha", "lokr", "glora", "full", "norm"})
_SELF_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "out_proj"})
_EMBEDDING = "bundle_emb."


def read(view: FileView, target: Target) -> Report:
    """What both A1111 and Forge take of the file."""
    forge = _in_forge(view, target)
    if forge.dropped.keys() == view.shapes.keys():
        return forge
    reading = Reading(NAME, view)
    for name, why in forge.dropped.items():
        reading.drop([name], f"Forge: {why}")
    by_stem = {module.stem: module for module in view.modules}
    for stem, how in forge.wrong.items():
        reading.differ(by_stem[stem], f"Forge: {how}")
    _apply_a1111(reading, view, target)
    return reading.report()


def _in_forge(view: FileView, target: Target) -> Report:
    reading = Reading(NAME, view)
    comfy_lora.apply(reading, view, target)
    report = reading.report()
    unmatched = [why for why in report.dropped.values() if why != comfy_lora.misfit(target)]
    if len(unmatched) > _FORGE_LIMIT:
        worst = Counter(unmatched).most_common(1)[0][0]
        return reading.refused(
            f"Forge refuses a file with over {_FORGE_LIMIT} keys that it cannot use: {worst}"
        )
    return report


def _apply_a1111(reading: Reading, view: FileView, target: Target) -> None:
    names = _a1111_names(target)
    fused = _incomplete_attention(view, names, target)
    for name in view.strays:
        if not name.startswith(_EMBEDDING):
            reading.drop([name], "A1111: no layer has this key")
    for module in view.modules:
        key = names.get(module.stem)
        if key is None:
            reading.drop_module(module, f"A1111: no layer of {target.name} has this name")
        elif module.kind not in _KINDS or (module.kind == "lora" and module.spelling != KOHYA):
            reading.drop_module(module, f"A1111: it does not read {KIND_WORDS[module.kind]}")
        elif not comfy_lora.has_elements(module, target.shapes[key]):
            reading.drop_module(module, f"A1111: {comfy_lora.misfit(target)}")
        elif module.stem in fused:
            reading.drop_module(
                module, "A1111: of OpenCLIP's attention, q, k, v and out are needed together"
            )
        elif module.magnitude_axis == "out":
            reading.differ(module, "A1111: DoRA per output is divided by the norms of inputs")


def _a1111_names(target: Target) -> dict[str, LayerKey]:
    names = prefixed("lora_unet_", target.original_unet)
    names |= {
        f"lora_unet_{name}": key
        for name, key in target.text(UNET).items()
        if not (target.arch == "sdxl" and name == "up_blocks_0_upsamplers_0_conv")
        and not name.startswith("add_embedding")
    }
    clip = target.text(TEXT_ENCODER)
    if target.arch != "sdxl":
        names |= prefixed("lora_te_", clip)
    if target.arch != "sd21":
        names |= prefixed("lora_te1_", clip)
    second = target.text(TEXT_ENCODER_2).items()
    names |= {f"lora_te2_{name}": key for name, key in second if name != "text_projection"}
    return names


def _incomplete_attention(
    view: FileView, names: dict[str, LayerKey], target: Target
) -> frozenset[str]:
    """Stems of OpenCLIP attention layers that lack one of the four."""
    open_clip = {"sd21": TEXT_ENCODER, "sdxl": TEXT_ENCODER_2}.get(target.arch)
    groups: dict[str, dict[str, Module]] = {}
    for module in view.modules:
        key = names.get(module.stem)
        if key is not None and key.part == open_clip and ".self_attn." in key.path:
            block, _, leaf = key.path.rpartition(".")
            groups.setdefault(block, {})[leaf] = module
    return frozenset(
        module.stem
        for group in groups.values()
        if group.keys() != _SELF_ATTENTION
        for module in group.values()
    )
