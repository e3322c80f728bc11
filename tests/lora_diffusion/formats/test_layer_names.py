"""The layer table against real model classes: nothing missing, nothing ambiguous."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora_diffusion.formats.kohya_names import (
    kohya_stem,
    lycoris_stem,
    lycoris_stem_table,
    stem_table,
)
from lora_diffusion.formats.layer_names import (
    by_flat_name,
    clip_paths,
    flatten,
    projected_clip_paths,
    unet_paths,
)
from lora_diffusion.keys import PARTS, LayerKey, live_modules

SD15_UNET = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD21_UNET = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
TINY_UNET = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}


@pytest.mark.parametrize("part", PARTS)
def test_no_two_paths_flatten_alike(part: str) -> None:
    grammars = {"unet": unet_paths, "text_encoder": clip_paths}
    paths = list(grammars.get(part, projected_clip_paths)())
    assert len({flatten(path) for path in paths}) == len(paths) == len(by_flat_name(part))
    for path in paths:
        assert by_flat_name(part)[path.replace(".", "_")] == LayerKey(part, path)


def test_unknown_part() -> None:
    with pytest.raises(KeyError):
        by_flat_name("vae")


@pytest.mark.parametrize("config", [SD15_UNET, SD21_UNET, TINY_UNET], ids=["sd15", "sd21", "tiny"])
def test_every_weighted_layer_of_a_unet_is_in_the_table(config: dict[str, object]) -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        model = UNet2DConditionModel(**config)
    found = [
        key.path
        for key, module in live_modules({"unet": model}).items()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    table = {key.path for key in by_flat_name("unet").values()}
    assert set(found) <= table
    if config is not TINY_UNET:  # what kohya's trainer adapts: 192, and 86 more as LoCon
        transformer = [path for path in found if ".attentions." in path]
        others = [path for path in found if "blocks" in path or "mid_block" in path]
        assert len(transformer) == 192
        assert len(others) - len(transformer) == 86


@pytest.mark.parametrize(
    ("arch", "config", "clip", "modules"),
    [
        ("sd15", SD15_UNET, {}, 264),
        ("sd21", SD21_UNET, {"num_hidden_layers": 23, "hidden_size": 1024}, 330),
    ],
)
def test_kohya_names_of_the_true_models(
    arch: str, config: dict[str, object], clip: dict[str, int], modules: int
) -> None:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel(**config),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**clip, num_attention_heads=16)),
        }
    stems = {
        key: kohya_stem(key, arch)
        for key, module in live_modules(parts).items()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and (".attentions." in key.path or ".layers." in key.path)
    }
    assert len(stems) == len(set(stems.values())) == modules
    assert all(stem_table()[str(stem)] == key for key, stem in stems.items())
    lycoris = {lycoris_stem(key, arch) for key in stems if key.part == "unet"}
    assert len(lycoris) == 192
    assert lycoris <= lycoris_stem_table().keys()


def test_every_weighted_layer_of_a_text_encoder_is_in_the_table() -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig())
    found = {
        key.path
        for key, module in live_modules({"text_encoder": model}).items()
        if isinstance(module, nn.Linear)
    }
    assert len(found) == 72
    assert found <= {key.path for key in by_flat_name("text_encoder").values()}
    assert all(path.startswith("text_model.encoder.layers.") for path in found)
