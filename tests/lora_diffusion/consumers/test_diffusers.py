"""The model of diffusers against diffusers: the same keys are used, refused and miscounted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lora_diffusion.algebra import dora_delta
from lora_diffusion.consumers import Target, diffusers
from lora_diffusion.consumers.report import Report
from lora_diffusion.consumers.view import FileView, view_file
from lora_diffusion.formats.kohya_names import kohya_stem
from lora_diffusion.keys import LayerKey, live_modules
from tests.lora_diffusion.consumers.files import (
    dotted,
    factors,
    kohya,
    saved,
    sd_name,
    sdxl_name,
    target_of,
)
from tests.lora_diffusion.families.other_models import make_sdxl
from tests.lora_diffusion.families.sd15_models import Models, make_models
from tests.lora_diffusion.formats.test_diffusers import merged_deltas, pipeline_of

pytest.importorskip("peft")


def make(arch: str) -> Models:
    return make_sdxl() if arch == "sdxl" else make_models()


def some(target: Target, pattern: str) -> list[LayerKey]:
    return [key for key in target.shapes if re.fullmatch(pattern, str(key))]


ATTN = r"unet\..*\.attn[12]\.to_(q|out\.0)"
MIXED = r"unet\..*(to_q|ff\.net\.2|proj_in|resnets\.0\.conv1|time_emb_proj|samplers\.0\.conv)"
TEXT = r"text_encoder(_2)?\..*\.(q_proj|v_proj|out_proj|fc1)"
ALL = r".*"


def original(key: LayerKey) -> str:
    stem = kohya_stem(key, "sdxl")
    assert stem is not None
    return stem


def lycoris(key: LayerKey) -> str:
    return sd_name(key).replace("lora_unet_", "lycoris_")


def of(pattern: str, name: Any = None, **numbers: Any) -> Callable[[Target], dict[str, Tensor]]:
    """A file of the layers that fit."""

    def make_tensors(target: Target) -> dict[str, Tensor]:
        spelled = name or (sdxl_name if target.arch == "sdxl" else sd_name)
        return kohya(some(target, pattern), target.shapes, spelled, **numbers)

    return make_tensors


def plus(extra: dict[str, Tensor]) -> Callable[[Target], dict[str, Tensor]]:
    return lambda target: of(ATTN)(target) | extra


def with_dora(target: Target) -> dict[str, Tensor]:
    tensors = of(ATTN)(target)
    for key in some(target, ATTN)[:3]:
        tensors[f"{sd_name(key)}.dora_scale"] = torch.ones(1, target.shapes[key][1])
    return tensors


def half_original(target: Target) -> dict[str, Tensor]:
    keys = some(target, MIXED)
    return kohya(keys[::2], target.shapes, original) | kohya(keys[1::2], target.shapes, sdxl_name)


def old_processors(target: Target) -> dict[str, Tensor]:
    tensors = {}
    for index, key in enumerate(some(target, ATTN)):
        down, up = factors(target.shapes[key], 3, index)
        stem = f"unet.{key.path.replace('.to_', '.processor.to_').removesuffix('.0')}"
        tensors |= {f"{stem}_lora.down.weight": down, f"{stem}_lora.up.weight": up}
    return tensors


def flat_linear(target: Target) -> dict[str, Tensor]:
    """The 1x1 convolutions of SD 1.x as if they were linear layers."""
    tensors = of(r"unet\..*proj_in")(target)
    return {n: t.flatten(1) if t.dim() == 4 else t for n, t in tensors.items()}


STEM = "lora_unet_mid_block_attentions_0_proj_in"
# Where a name says so, diffusers is to raise, drop, or miscount; `fine` ones it reads.
FILES: dict[str, tuple[str, Callable[[Target], dict[str, Tensor]]]] = {
    "fine: one alpha": ("sd15", of(f"{MIXED}|{ATTN}|{TEXT}")),
    "fine: one alpha, sdxl": ("sdxl", of(f"{MIXED}|{ATTN}|{TEXT}", original)),
    "fine: every layer": ("sd15", of(ALL)),
    "fine: every layer, sdxl": ("sdxl", of(f"unet.*|{TEXT}", original)),
    "fine: ranks": ("sd15", of(f"{MIXED}|{ATTN}|{TEXT}", rank=lambda i: 2 + i % 3)),
    "fine: ranks, sdxl": ("sdxl", of(f"{ATTN}|{TEXT}", original, rank=lambda i: 2 + i % 3)),
    "fine: no alpha": ("sd15", of(f"{MIXED}|{TEXT}", rank=lambda i: 2 + i % 3,
                                  alpha=lambda _: None)),
    "fine: mlp of a text encoder": ("sd15", of(r"text_encoder\..*fc[12]")),
    "fine: te1 on sd1": ("sd15", of(f"{ATTN}|{TEXT}", sdxl_name)),
    "fine: dotted": ("sd15", lambda t: dotted(some(t, f"{MIXED}|{ATTN}|{TEXT}"), t.shapes)),
    "fine: dotted, sdxl": ("sdxl", lambda t: dotted(some(t, f"{MIXED}|{TEXT}"), t.shapes)),
    "fine: dotted q": ("sd15", lambda t: dotted(some(t, r"text_.*q_proj"), t.shapes)),
    "fine: old processors": ("sd15", old_processors),
    "diffusers' names on sdxl": ("sdxl", of(r"unet\..*")),
    "wrong: alphas": ("sd15", of(f"{MIXED}|{ATTN}|{TEXT}", alpha=lambda i: 1.0 + i % 3)),
    "wrong: alphas, sdxl": ("sdxl", of(f"{MIXED}|{TEXT}", original, alpha=lambda i: 1.0 + i % 3)),
    "wrong: ranks as alphas": ("sd15", of(f"{ATTN}|{TEXT}", rank=lambda i: 2 + i % 3,
                                          alpha=lambda i: 2.0 + i % 3)),
    "wrong: some alphas": ("sd15", of(f"{MIXED}|{ATTN}", alpha=lambda i: 2.0 if i % 3 else None)),
    "dropped: q and v beside mlp": ("sd15", of(r"unet.*to_q|text_encoder\..*(q_proj|v_proj|fc1)")),
    "refused: q and v": ("sd15", of(r"unet.*to_q|text_encoder\..*(q_proj|v_proj)")),
    "dropped: both spellings": ("sdxl", half_original),
    "dropped: dora_scale": ("sd15", with_dora),
    "dropped: other layers": ("sd15", plus({
        f"{STEM.replace('mid', 'end')}.lora_down.weight": torch.ones(2, 4),
        f"{STEM.replace('mid', 'end')}.lora_up.weight": torch.ones(4, 2)})),
    "refused: lora_mid": ("sd15", plus({f"{STEM}.lora_mid.weight": torch.ones(4, 4, 3, 3)})),
    "refused: loha": ("sd15", plus({f"{STEM}.hada_w1_a": torch.ones(4, 4)})),
    "refused: lokr": ("sd15", plus({f"{STEM}.lokr_w1": torch.ones(4, 4)})),
    "refused: alpha alone": ("sd15", plus({f"{STEM}.alpha": torch.ones(())})),
    "refused: embedding": ("sd15", plus({"bundle_emb.x.string_to_param.*": torch.ones(2, 4)})),
    "refused: lycoris": ("sd15", of(ATTN, lycoris)),
    "refused: dotted with alpha": ("sd15", lambda t: {
        **dotted(some(t, ATTN), t.shapes), f"{some(t, ATTN)[0]}.alpha": torch.ones(())}),
    "refused: dotted mlp": ("sd15", lambda t: dotted(some(t, r"text_.*fc1|unet.*to_q"), t.shapes)),
    "refused: flat": ("sd15", flat_linear),
    "dropped: peft": ("sd15", lambda t: {
        f"base_model.model.{n.removeprefix('unet.')}": v
        for n, v in dotted(some(t, ATTN), t.shapes).items()}),
    "dropped: no part": ("sd15", lambda t: {
        n.removeprefix("unet."): v for n, v in dotted(some(t, ATTN), t.shapes).items()}),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_diffusers_does_what_its_model_says(tmp_path: Path, case: str) -> None:
    arch, tensors_of = FILES[case]
    models = make(arch)
    target = target_of(models, arch)
    tensors = tensors_of(target)
    path = saved(tensors, tmp_path / "x.safetensors")
    # a PEFT file is no adapter without its configuration, which diffusers does not look for
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 4}')
    view = view_file(path)
    report = diffusers.read(view, target)

    parts = {part: model for part, model in models.parts().items() if part != "vae"}
    weights = {key: module.weight.clone() for key, module in live_modules(parts).items()
               if hasattr(module, "weight")}  # fmt: skip
    refused = len(report.dropped) == len(tensors) and not case.startswith("dropped")
    try:
        pipeline_of(parts).load_lora_weights(str(path))
    except (ValueError, RuntimeError, IndexError):
        assert refused, report
        return
    assert not refused, report
    applied = merged_deltas(parts)
    expected, right = expectations(report, view, target, weights)
    assert applied.keys() == expected.keys()
    for key, stem in expected.items():
        meant = right[key]
        is_close = torch.allclose(applied[key], meant, rtol=1e-4, atol=1e-5)
        assert is_close != (stem in report.wrong), stem
    word = case.split(":")[0]
    assert (word == "fine") == report.reads_it or word == "diffusers' names on sdxl"
    assert (word == "wrong") <= bool(report.wrong)


def expectations(
    report: Report, view: FileView, target: Target, weights: dict[LayerKey, Tensor]
) -> tuple[dict[LayerKey, str], dict[LayerKey, Tensor]]:
    """The layers that the report says are applied, and the delta that the file means."""
    from safetensors.torch import load_file

    tensors = load_file(view.path)
    names = diffusers._kohya_names(target)
    stems, meant = {}, {}
    for module in view.modules:
        if module.names["down"] in report.dropped:
            continue
        key = names.get(module.stem)
        if key is None:
            part, _, path = diffusers._modern(module.stem).partition(".")
            key = LayerKey(part, path)
        down, up = (tensors[module.names[leaf]] for leaf in ("down", "up"))
        alpha = float(module.meant_alpha or 0)
        stems[key] = module.stem
        if "dora_scale" in module.names:
            magnitude = tensors[module.names["dora_scale"]]
            meant[key] = dora_delta(down, up, alpha, magnitude, "in", weights[key])
        else:
            product = up.flatten(1) @ down.flatten(1) * (alpha / down.shape[0])
            meant[key] = product.reshape(target.shapes[key])
    return stems, meant
