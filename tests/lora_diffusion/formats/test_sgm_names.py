"""SDXL's names: counts of the true model, both ways, and diffusers' own converter as a witness."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora_diffusion.formats.diffusers_names import spell_diffusers
from lora_diffusion.formats.kohya_names import kohya_stem, stem_table
from lora_diffusion.formats.layer_names import by_flat_name, unet_paths
from lora_diffusion.formats.sgm_names import by_flat_sgm_name, sgm_path
from lora_diffusion.keys import LayerKey, live_modules

SDXL_UNET = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.fixture(scope="module")
def layers() -> list[LayerKey]:
    """Every layer with a weight matrix in SDXL: its UNet and both text encoders."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel(**SDXL_UNET),
            "text_encoder": CLIPTextModel(CLIPTextConfig()),
            "text_encoder_2": CLIPTextModelWithProjection(
                CLIPTextConfig(
                    hidden_size=1280,
                    intermediate_size=5120,
                    num_hidden_layers=32,
                    num_attention_heads=20,
                    projection_dim=1280,
                )
            ),
        }
    found = live_modules(parts).items()
    return [key for key, module in found if isinstance(module, nn.Linear | nn.Conv2d)]


def is_default(key: LayerKey) -> bool:
    """Whether kohya's trainer adapts it without being asked."""
    return ".attentions." in key.path or ".encoder.layers." in key.path


def test_every_layer_of_sdxl_has_one_name_that_reads_back(layers: list[LayerKey]) -> None:
    stems = {key: kohya_stem(key, "sdxl") for key in layers}
    assert None not in stems.values()
    assert len(set(stems.values())) == len(layers)
    assert all(stem_table()[str(stem)] == key for key, stem in stems.items())
    default = [key for key in layers if is_default(key)]
    counts = {p: sum(key.part == p for key in default) for p in ("text_encoder", "text_encoder_2")}
    assert counts == {"text_encoder": 72, "text_encoder_2": 192}
    assert len(default) == 986
    blocks = [key for key in layers if key.part == "unet" and "block" in key.path]
    assert len(blocks) - 722 == 17 * 3 + 11 + 4  # resnets' own layers, shortcuts, samplers


def test_no_two_layers_are_spelled_alike() -> None:
    table = by_flat_sgm_name()
    assert len(table) == len(list(unet_paths()))
    assert set(table).isdisjoint(by_flat_name("unet"))
    for name, key in table.items():
        assert sgm_path(key.path).replace(".", "_") == name


@pytest.mark.parametrize(
    ("path", "name"),
    [  # as they stand in files that sd-scripts wrote
        ("down_blocks.1.attentions.0.proj_in", "input_blocks_4_1_proj_in"),
        (
            "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
            "input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
        ),
        (
            "mid_block.attentions.0.transformer_blocks.3.attn2.to_out.0",
            "middle_block_1_transformer_blocks_3_attn2_to_out_0",
        ),
        ("mid_block.resnets.1.conv1", "middle_block_2_in_layers_2"),
        ("up_blocks.0.attentions.2.proj_out", "output_blocks_2_1_proj_out"),
        ("up_blocks.1.resnets.0.conv_shortcut", "output_blocks_3_0_skip_connection"),
        ("up_blocks.2.resnets.2.time_emb_proj", "output_blocks_8_0_emb_layers_1"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks_3_0_op"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks_5_2_conv"),
    ],
)
def test_names_from_the_wild(path: str, name: str) -> None:
    assert by_flat_sgm_name()[name] == LayerKey("unet", path)


def test_no_name_for_what_is_no_layer() -> None:
    for path in ("", "down_blocks.0", "conv_inn", "down_blocks.0.resnets.0.norm1", "vae.conv_in"):
        with pytest.raises(KeyError):
            sgm_path(path)


def test_diffusers_reads_every_name_as_the_same_layer(layers: list[LayerKey]) -> None:
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    with torch.device("meta"):
        config = UNet2DConditionModel(**SDXL_UNET).config
    others = [key for key in layers if key.part == "unet" and not is_default(key)]
    for keys in ([key for key in layers if is_default(key)], others):
        written = {}
        for key in keys:
            stem = kohya_stem(key, "sdxl")
            written[f"{stem}.lora_down.weight"] = torch.zeros(1, 1)
            written[f"{stem}.lora_up.weight"] = torch.zeros(1, 1)
            written[f"{stem}.alpha"] = torch.tensor(1.0)
        read, _ = StableDiffusionXLPipeline.lora_state_dict(written, unet_config=config)
        # It gives its own older names, attention processors among them, which we read as well.
        shapes = {name: tuple(tensor.shape) for name, tensor in read.items()}
        places = spell_diffusers("x", shapes, {}).tensors.values()
        assert len(places) == 2 * len(keys)
        assert {place.key for place in places} == set(keys)
