"""Ours and diffusers compute the same from one file, to 1e-5 in fp32, whoever wrote it.

Ranks and alphas differ from layer to layer, and from each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lora_diffusion.consumers import verify
from lora_diffusion.formats import load_adapter
from lora_diffusion.injection import AdapterConfig, attach, inject
from lora_diffusion.keys import UNET
from tests.conftest import fill
from tests.lora_diffusion.consumers.files import target_of
from tests.lora_diffusion.families.other_models import POOLED, make_sdxl
from tests.lora_diffusion.families.sd15_models import Models, make_models
from tests.lora_diffusion.formats.test_diffusers import merged_deltas, pipeline_of

pytest.importorskip("peft")

CONFIG = AdapterConfig(
    targets="all",
    text_targets="attn+ff",
    rank=4,
    alpha=2.0,
    conv_rank=3,
    ranks={"*.attn2.*": 6, "*.mlp.fc1": 5},
    alphas={"*.ff.*": 3.0, "*.to_q": 5.0, "text_encoder*.v_proj": 1.0},
)
LIMIT = 1e-5
SIDE = 32  # latents; on fewer, group norms of a few numbers each would magnify rounding
ARCHS = ["sd15", "sdxl"]


def fresh(arch: str) -> Models:
    return make_sdxl() if arch == "sdxl" else make_models()


def parts_of(models: Models) -> dict[str, Any]:
    return {part: model for part, model in models.parts().items() if part != "vae"}


@torch.no_grad()
def outputs(parts: Mapping[str, nn.Module]) -> list[Tensor]:
    """What each model makes of fixed inputs, the UNet of fixed text features."""
    source = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 500, (2, 77), generator=source)
    width = parts[UNET].config.cross_attention_dim  # type: ignore[union-attr]
    extra = {
        "text_embeds": torch.randn(2, POOLED, generator=source),
        "time_ids": torch.full((2, 6), 64.0),
    }
    found = [
        parts[UNET](
            torch.randn(2, 4, SIDE, SIDE, generator=source),
            torch.tensor([3, 500]),
            encoder_hidden_states=torch.randn(2, 77, int(width), generator=source),
            added_cond_kwargs=extra if "text_encoder_2" in parts else None,
        ).sample
    ]
    return found + [model(ids).last_hidden_state for part, model in parts.items() if part != UNET]


def largest_difference(left: list[Tensor], right: list[Tensor]) -> float:
    assert len(left) == len(right)
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("format", ["kohya", "diffusers"])
@pytest.mark.parametrize("arch", ARCHS)
def test_diffusers_computes_what_we_do(tmp_path: Path, arch: str, format: str) -> None:
    models = fresh(arch)
    parts = parts_of(models)
    plain = outputs(parts)
    handle = inject(parts, CONFIG)
    assert {part for part, _ in ((key.part, key) for key in handle.layers)} == set(parts)
    fill(handle, spread=0.05)
    path = tmp_path / "x.safetensors"
    handle.save(path, arch=arch, dtype="fp32", format=format)
    layers = set(handle.layers)
    ours = outputs(parts)
    handle.remove()
    attach(parts, load_adapter(path))
    assert largest_difference(outputs(parts), ours) <= LIMIT

    report = verify(path, target_of(models, arch)).reports["diffusers"]
    assert (report.dropped, report.wrong) == ({}, {})
    theirs = parts_of(fresh(arch))
    pipeline_of(theirs).load_lora_weights(str(path))
    assert merged_deltas(theirs).keys() == layers
    found = outputs(theirs)
    assert largest_difference(found, ours) <= LIMIT
    assert largest_difference(found, plain) > 1e-2


@pytest.mark.parametrize("with_metadata", [True, False])
@pytest.mark.parametrize("arch", ARCHS)
def test_we_compute_what_diffusers_does(tmp_path: Path, arch: str, with_metadata: bool) -> None:
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, get_peft_model_state_dict

    theirs = parts_of(fresh(arch))
    torch.manual_seed(1)
    for model in theirs.values():
        model.add_adapter(
            LoraConfig(
                r=4,
                lora_alpha=2 if with_metadata else 4,
                rank_pattern={"to_q": 3, "q_proj": 5} if with_metadata else {},
                alpha_pattern={"to_q": 9, "fc1": 7} if with_metadata else {},
                target_modules=r".*(to_[qkv]|to_out\.0|ff\.net\.2|proj_in|conv1|[qkv]_proj|fc1)",
                init_lora_weights=False,
            )
        )
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data *= 0.2
    pipeline_of(theirs).save_lora_weights(
        tmp_path,
        **{f"{part}_lora_layers": get_peft_model_state_dict(m) for part, m in theirs.items()},
        **(_collate_lora_metadata(theirs) if with_metadata else {}),
    )
    found = outputs(theirs)
    parts = parts_of(fresh(arch))
    plain = outputs(parts)
    attach(parts, load_adapter(tmp_path))
    assert largest_difference(outputs(parts), found) <= LIMIT
    assert largest_difference(found, plain) > 1e-2


@pytest.mark.parametrize("arch", ARCHS)
def test_we_compute_what_peft_does(tmp_path: Path, arch: str) -> None:
    from peft import LoraConfig, get_peft_model

    theirs = parts_of(fresh(arch))
    torch.manual_seed(2)
    for part, model in theirs.items():
        config = LoraConfig(
            r=4,
            lora_alpha=3,
            rank_pattern={"to_v": 2, "k_proj": 6},
            alpha_pattern={"to_k": 8.0, "fc2": 1},
            target_modules=r".*(to_[qkv]|[qkv]_proj|fc2|time_emb_proj)",
            init_lora_weights=False,
        )
        wrapped = get_peft_model(model, config)
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.data *= 0.1
        wrapped.save_pretrained(tmp_path / part)
    found = outputs(theirs)
    parts = parts_of(fresh(arch))
    plain = outputs(parts)
    attach(parts, load_adapter(tmp_path))
    assert largest_difference(outputs(parts), found) <= LIMIT
    assert largest_difference(found, plain) > 1e-3
