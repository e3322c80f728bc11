"""The shipped configuration is Stable Diffusion 1.5's: its published sizes, without its weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from lora_diffusion.families import layout, ldm_configs
from lora_diffusion.families.detect import (
    SD1_TEXT_PREFIX,
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
)
from lora_diffusion.injection import AdapterConfig, inject
from lora_diffusion.keys import TEXT_ENCODER, UNET
from tests.lora_diffusion.families.sd15_models import Models, ldm_tensors

UNET_PARAMETERS = 859_520_964
VAE_PARAMETERS = 83_653_863
TEXT_PARAMETERS = 123_060_480


def config(part: str) -> dict[str, Any]:
    return ldm_configs.shipped("sd15", part)


@pytest.fixture(scope="module")
def base() -> dict[str, nn.Module]:
    """True-size SD1.5 on the meta device."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return {
            UNET: UNet2DConditionModel.from_config(config("unet")),
            "vae": AutoencoderKL.from_config(config("vae")),
            TEXT_ENCODER: CLIPTextModel(CLIPTextConfig.from_dict(config("text_encoder"))),
        }


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("part", "count", "tensors"),
    [
        (UNET, UNET_PARAMETERS, 686),
        ("vae", VAE_PARAMETERS, 248),
        (TEXT_ENCODER, TEXT_PARAMETERS, 196),
    ],
)
def test_sizes(base: dict[str, nn.Module], part: str, count: int, tensors: int) -> None:
    assert parameters(base[part]) == count
    assert len(list(base[part].parameters())) == tensors


def test_the_shipped_folder_lacks_weights_and_tokenizer_alone() -> None:
    folder = ldm_configs.folder("sd15")
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.json"))
    assert files == sorted(
        [layout.SCHEDULER_CONFIG, *(f"{part}/config.json" for part in layout.STEMS)]
    )


@pytest.mark.parametrize(
    ("targets", "text_targets", "expected"),
    [
        ("attn", "none", {UNET: 128}),
        ("attn+ff", "none", {UNET: 160}),
        ("transformer", "none", {UNET: 192}),
        ("all", "none", {UNET: 278}),
        ("transformer", "transformer", {UNET: 192, TEXT_ENCODER: 72}),
        ("none", "attn", {TEXT_ENCODER: 48}),
    ],
)
def test_adapted_layers(
    base: dict[str, nn.Module], targets: str, text_targets: str, expected: dict[str, int]
) -> None:
    parts = {part: base[part] for part in (UNET, TEXT_ENCODER)}
    handle = inject(parts, AdapterConfig(rank=4, targets=targets, text_targets=text_targets))
    try:
        assert Counter(key.part for key in handle.layers) == expected
    finally:
        handle.remove()


def test_rank_4_on_attention_trains_797184_parameters(base: dict[str, nn.Module]) -> None:
    """As cloneofsimo's and diffusers' first LoRA scripts: 3.2 MB in fp32, 0.093 % of the UNet."""
    handle = inject({UNET: base[UNET]}, AdapterConfig(rank=4, targets="attn"))
    try:
        trained = sum(p.numel() for p in handle.parameters())
        assert trained == 797_184
        assert f"{trained / UNET_PARAMETERS:.3%}" == "0.093%"
        assert len(handle.layers) == 128
        assert not any(p.requires_grad for n, p in base[UNET].named_parameters() if "base" in n)
    finally:
        handle.remove()
    assert parameters(base[UNET]) == UNET_PARAMETERS


def test_all_adds_the_86_layers_that_kohya_calls_conv(base: dict[str, nn.Module]) -> None:
    chosen = {}
    for targets in ("transformer", "all"):
        handle = inject({UNET: base[UNET]}, AdapterConfig(rank=4, targets=targets))
        chosen[targets] = set(handle.layers)
        handle.remove()
    added = chosen["all"] - chosen["transformer"]
    assert len(added) == 86
    assert not chosen["transformer"] - chosen["all"]
    kinds = Counter(key.path.rsplit(".", 1)[-1] for key in added)
    # 22 resnets of two convolutions and a projection of time, 14 shortcuts, 3 steps down, 3 up.
    assert kinds == {"conv1": 22, "conv2": 22, "time_emb_proj": 22, "conv_shortcut": 14, "conv": 6}


def test_true_shapes_give_back_the_true_configuration(base: dict[str, nn.Module]) -> None:
    """Widths read off a full-size checkpoint are the shipped ones, to the last field."""
    whole = Models(base[UNET], base["vae"], base[TEXT_ENCODER], None)  # type: ignore[arg-type]
    shapes = {name: tuple(tensor.shape) for name, tensor in ldm_tensors(whole).items()}
    assert ldm_configs.unet_config(shapes, "sd15", "") == config("unet")
    assert ldm_configs.vae_config(shapes, "sd15", "") == config("vae")
    assert ldm_configs.clip_config(shapes, SD1_TEXT_PREFIX, "sd15", "") == config("text_encoder")
    # Published facts about v1-5-pruned-emaonly.safetensors.
    counts = Counter(name.split(".")[0] for name in shapes)
    assert counts == {
        UNET_PREFIX.split(".")[0]: 686,
        VAE_PREFIX.split(".")[0]: 248,
        TEXT_PREFIX.split(".")[0]: 196,
    }
    assert shapes[UNET_PREFIX + "input_blocks.4.0.skip_connection.weight"] == (640, 320, 1, 1)
    assert shapes[UNET_PREFIX + "output_blocks.2.1.conv.weight"] == (1280, 1280, 3, 3)
    assert shapes[UNET_PREFIX + "output_blocks.5.2.conv.weight"] == (1280, 1280, 3, 3)
    assert shapes[VAE_PREFIX + "encoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)
