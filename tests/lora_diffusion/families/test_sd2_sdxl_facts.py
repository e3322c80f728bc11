"""The shipped configurations are SD2.1's and SDXL's: published sizes, without their weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from lora_diffusion.families import layout, ldm_configs
from lora_diffusion.families.detect import (
    SD2_TEXT_PREFIX,
    SDXL_TEXT_2_PREFIX,
    SDXL_TEXT_PREFIX,
)
from lora_diffusion.injection import AdapterConfig, inject
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET
from tests.lora_diffusion.families.other_models import ldm_tensors
from tests.lora_diffusion.families.sd15_models import Models

# Parameters and tensors of each part.
SIZES = {
    "sd21": {
        UNET: (865_910_724, 686),
        "vae": (83_653_863, 248),
        TEXT_ENCODER: (340_387_840, 372),
    },
    "sdxl": {
        UNET: (2_567_463_684, 1680),
        "vae": (83_653_863, 248),
        TEXT_ENCODER: (123_060_480, 196),
        TEXT_ENCODER_2: (694_659_840, 517),
    },
}
Parts = dict[str, nn.Module]


def make(arch: str) -> Parts:
    """A true-size model on the meta device."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kinds: dict[str, Any] = {
        UNET: UNet2DConditionModel.from_config,
        "vae": AutoencoderKL.from_config,
        TEXT_ENCODER: lambda c: CLIPTextModel(CLIPTextConfig.from_dict(c)),
        TEXT_ENCODER_2: lambda c: CLIPTextModelWithProjection(CLIPTextConfig.from_dict(c)),
    }
    with torch.device("meta"):
        return {part: kinds[part](ldm_configs.shipped(arch, part)) for part in layout.stems(arch)}


@pytest.fixture(scope="module")
def bases() -> dict[str, Parts]:
    return {arch: make(arch) for arch in SIZES}


@pytest.mark.parametrize("arch", SIZES)
def test_sizes(bases: dict[str, Parts], arch: str) -> None:
    found = {
        part: (sum(p.numel() for p in model.parameters()), len(list(model.parameters())))
        for part, model in bases[arch].items()
    }
    assert found == SIZES[arch]


@pytest.mark.parametrize("arch", SIZES)
def test_the_shipped_folder_lacks_weights_and_tokenizers_alone(arch: str) -> None:
    folder = ldm_configs.folder(arch)
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.json"))
    assert files == sorted(
        [layout.SCHEDULER_CONFIG, *(f"{part}/config.json" for part in layout.stems(arch))]
    )


@pytest.mark.parametrize(
    ("arch", "targets", "text_targets", "expected"),
    [
        ("sd21", "transformer", "transformer", {UNET: 192, TEXT_ENCODER: 138}),
        ("sd21", "attn", "none", {UNET: 128}),
        (
            "sdxl",
            "transformer",
            "transformer",
            {UNET: 722, TEXT_ENCODER: 72, TEXT_ENCODER_2: 192},
        ),
        ("sdxl", "attn", "attn", {UNET: 560, TEXT_ENCODER: 48, TEXT_ENCODER_2: 128}),
    ],
)
def test_adapted_layers(
    bases: dict[str, Parts], arch: str, targets: str, text_targets: str, expected: dict[str, int]
) -> None:
    parts = {part: model for part, model in bases[arch].items() if part != "vae"}
    handle = inject(parts, AdapterConfig(rank=4, targets=targets, text_targets=text_targets))
    try:
        assert Counter(key.part for key in handle.layers) == expected
    finally:
        handle.remove()


@pytest.mark.parametrize("arch", SIZES)
def test_true_shapes_give_back_the_true_configuration(bases: dict[str, Parts], arch: str) -> None:
    parts: dict[str, Any] = bases[arch]
    whole = Models(
        parts[UNET],
        parts["vae"],
        parts[TEXT_ENCODER],
        None,  # type: ignore[arg-type]
        parts.get(TEXT_ENCODER_2),
    )
    with torch.device("meta"):
        tensors = ldm_tensors(whole)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert ldm_configs.unet_config(shapes, arch, "") == ldm_configs.shipped(arch, UNET)
    assert ldm_configs.vae_config(shapes, arch, "") == ldm_configs.shipped(arch, "vae")
    first = ldm_configs.shipped(arch, TEXT_ENCODER)
    if arch == "sd21":
        found = ldm_configs.open_clip_config(shapes, SD2_TEXT_PREFIX, arch, TEXT_ENCODER, "")
        assert found == first
        return
    assert ldm_configs.clip_config(shapes, SDXL_TEXT_PREFIX, arch, "") == first
    second = ldm_configs.open_clip_config(shapes, SDXL_TEXT_2_PREFIX, arch, TEXT_ENCODER_2, "")
    assert second == ldm_configs.shipped(arch, TEXT_ENCODER_2)
    # sd_xl_base_1.0.safetensors has 2515 tensors, one of them CLIP-L's position ids.
    assert len(shapes) + 1 == 2515
    assert shapes["model.diffusion_model.label_emb.0.0.weight"] == (1280, 2816)
    assert shapes["model.diffusion_model.output_blocks.2.2.conv.weight"] == (1280, 1280, 3, 3)
