"""diffusers as the judge of its own format, written and read; and its older forms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.errors import AdapterFileError
from lora_diffusion.factors import DoRAFactors, LoRAFactors
from lora_diffusion.formats import load_adapter, read_adapter, save_adapter
from lora_diffusion.formats.describe import describe
from lora_diffusion.keys import LayerKey, live_modules
from tests.conftest import make_parts

pytest.importorskip("peft")
TARGETS = r".*(to_q|attn2\.to_k|to_out\.0|ff\.net\.2|proj_in|resnets\.0\.conv1|q_proj|out_proj|fc1)"


def tiny_sdxl() -> dict[str, nn.Module]:
    """The true classes of SDXL's parts, a few thousand parameters each."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 24),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=4,
        cross_attention_dim=32,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
        norm_num_groups=4,
    )
    config = CLIPTextConfig(
        vocab_size=99,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=16,
    )
    return {
        "unet": unet,
        "text_encoder": CLIPTextModel(config),
        "text_encoder_2": CLIPTextModelWithProjection(config),
    }


def make(arch: str) -> dict[str, nn.Module]:
    return tiny_sdxl() if arch == "sdxl" else make_parts()


def pipeline_of(parts: dict[str, Any]) -> Any:
    """A pipeline with nothing but what LoRAs change."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    common = {"vae": None, "tokenizer": None, "scheduler": None, "feature_extractor": None}
    if "text_encoder_2" in parts:
        return StableDiffusionXLPipeline(**common, **parts, tokenizer_2=None, add_watermarker=False)
    return StableDiffusionPipeline(
        **common, **parts, safety_checker=None, requires_safety_checker=False
    )


def targets(parts: dict[str, nn.Module]) -> dict[LayerKey, Any]:
    return {
        key: module
        for key, module in live_modules(parts).items()
        if re.fullmatch(TARGETS, key.path) and isinstance(module, nn.Linear | nn.Conv2d)
    }


def made(modules: dict[LayerKey, Any], *, dora: bool = False) -> dict[LayerKey, LoRAFactors]:
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for index, (key, module) in enumerate(modules.items()):
        shape = module.weight.shape
        rank, ones = 2 + index % 3, (1,) * (len(shape) - 2)
        low_rank = (
            torch.randn(rank, *shape[1:], generator=generator),
            torch.randn(shape[0], rank, *ones, generator=generator),
            1.5 + index % 4,
        )
        if dora:
            magnitude = 1 + torch.rand(shape[0], 1, *ones, generator=generator)
            layers[key] = DoRAFactors(*low_rank, magnitude, "out")
        else:
            layers[key] = LoRAFactors(*low_rank)
    return layers


def merged_deltas(parts: dict[str, nn.Module]) -> dict[LayerKey, Tensor]:
    """What the loaded adapters add to each weight, found by merging them."""
    found = {}
    for key, module in live_modules(parts).items():
        layer: Any = module
        if hasattr(layer, "base_layer") and layer.lora_A:
            before = layer.base_layer.weight.detach().clone()
            layer.merge()
            found[key] = layer.base_layer.weight.detach() - before
            layer.unmerge()
    return found


def assert_close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("arch", ["sd15", "sdxl"])
def test_diffusers_applies_what_we_write(tmp_path: Path, arch: str, dora: bool) -> None:
    parts = make(arch)
    modules = targets(parts)
    weights = {key: module.weight.detach().clone() for key, module in modules.items()}
    layers = made(modules, dora=dora)
    path = tmp_path / "x.safetensors"
    save_adapter(AdapterFile(arch, layers), path, format="diffusers", dtype="fp32")
    pipeline_of(parts).load_lora_weights(str(path))
    found = merged_deltas(parts)
    assert found.keys() == layers.keys()
    for key, factors in layers.items():
        assert_close(found[key], factors.delta(weights[key]))


@pytest.mark.parametrize("arch", ["sd15", "sdxl"])
def test_diffusers_applies_our_kohya_files(tmp_path: Path, arch: str) -> None:
    """One rank and one alpha for all: diffusers 0.42 mixes them up where layers differ."""
    parts = make(arch)
    layers = {
        key: LoRAFactors(f.down[:2], f.up[:, :2], 3.0) for key, f in made(targets(parts)).items()
    }
    path = tmp_path / "x.safetensors"
    save_adapter(AdapterFile(arch, layers), path, dtype="fp32")
    pipeline_of(parts).load_lora_weights(str(path))
    found = merged_deltas(parts)
    assert found.keys() == layers.keys()
    for key, factors in layers.items():
        assert_close(found[key], factors.delta())


@pytest.mark.parametrize("with_metadata", [True, False])
@pytest.mark.parametrize("arch", ["sd15", "sdxl"])
def test_we_read_what_diffusers_writes(tmp_path: Path, arch: str, with_metadata: bool) -> None:
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, get_peft_model_state_dict

    parts: dict[str, Any] = make(arch)
    expected = targets(parts).keys()
    torch.manual_seed(1)
    for model in parts.values():
        model.add_adapter(
            LoraConfig(
                r=4,
                lora_alpha=2 if with_metadata else 4,
                rank_pattern={"to_q": 3} if with_metadata else {},
                alpha_pattern={"to_q": 9} if with_metadata else {},
                target_modules=TARGETS,
                init_lora_weights=False,
            )
        )
    pipeline = pipeline_of(parts)
    pipeline.save_lora_weights(
        tmp_path,
        **{f"{part}_lora_layers": get_peft_model_state_dict(m) for part, m in parts.items()},
        **(_collate_lora_metadata(parts) if with_metadata else {}),
    )
    read = read_adapter(tmp_path)  # the folder
    assert load_adapter(tmp_path / "pytorch_lora_weights.safetensors").layers.keys() == expected
    found = merged_deltas(parts)
    assert read.adapter.layers.keys() == found.keys() == expected
    for key, delta in found.items():
        assert_close(read.adapter.layers[key].delta(), delta)
    assert {f.alpha for f in read.adapter.layers.values()} == (
        {2.0, 9.0} if with_metadata else {4.0}
    )


OLD = {
    # name in the file -> canonical layer
    "processors": {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora": (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
        ),
        "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora": (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
        ),
    },
    "processors with text": {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora": (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
        ),
        "text_encoder.text_model.encoder.layers.1.self_attn.to_out_lora": (
            "text_encoder.text_model.encoder.layers.1.self_attn.out_proj"
        ),
        "text_encoder.text_model.encoder.layers.1.self_attn.to_q_lora": (
            "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"
        ),
    },
    "layers": {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.lora": (
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
        ),
        "text_encoder.text_model.encoder.layers.0.self_attn.v_proj.lora_linear_layer": (
            "text_encoder.text_model.encoder.layers.0.self_attn.v_proj"
        ),
    },
}


@pytest.mark.parametrize("form", OLD)
def test_older_forms_mean_to_us_what_they_mean_to_diffusers(tmp_path: Path, form: str) -> None:
    parts = make("sd15")
    modules = {str(key): module for key, module in live_modules(parts).items()}
    tensors = {}
    for seed, (name, layer) in enumerate(OLD[form].items()):
        torch.manual_seed(seed)
        outputs, inputs = modules[layer].weight.shape  # type: ignore[union-attr, misc]
        tensors[f"{name}.down.weight"] = torch.randn(3, int(inputs))
        tensors[f"{name}.up.weight"] = torch.randn(int(outputs), 3)
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    read = read_adapter(path)
    assert {str(key) for key in read.adapter.layers} == set(OLD[form].values())
    assert describe(path).rank == 3
    with_part = {
        name if name.startswith(("unet.", "text_encoder.")) else f"unet.{name}": tensor
        for name, tensor in tensors.items()
    }
    pipeline_of(parts).load_lora_weights(with_part)
    found = merged_deltas(parts)
    assert found.keys() == read.adapter.layers.keys()
    for key, delta in found.items():
        assert_close(read.adapter.layers[key].delta(), delta)


PATH = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def test_alpha_beside_the_factors_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    key = LayerKey("unet", PATH.removeprefix("unet."))
    adapter = AdapterFile("sd15", {key: LoRAFactors(torch.ones(2, 4), torch.ones(4, 2), 2.0)})
    save_adapter(adapter, path, format="diffusers")
    tensors = load_file(path)
    save_file(tensors | {f"{PATH}.alpha": torch.tensor(5.0)}, path)
    (factors,) = load_adapter(path).layers.values()
    assert factors.alpha == 5.0


@pytest.mark.parametrize(
    ("change", "metadata", "cause"),
    [
        ({f"{PATH}.lora_B.bias": torch.ones(4)}, {}, "lora_B.bias' belong to no LoRA layer"),
        ({f"{PATH}.lora.up.weight": torch.ones(4, 2)}, {}, "same part of one layer"),
        ({}, {"lora_adapter_metadata": "[]"}, "not a JSON object"),
        ({}, {"lora_adapter_metadata": '{"vae.r": 2}'}, "speaks of 'vae.r'"),
        ({}, {"lora_adapter_metadata": '{"unet.lora_alpha": "x"}'}, "not a number"),
    ],
)
def test_broken_files_are_refused(
    tmp_path: Path, change: dict[str, Tensor], metadata: dict[str, str], cause: str
) -> None:
    path = tmp_path / "x.safetensors"
    good = {f"{PATH}.lora_A.weight": torch.ones(2, 4), f"{PATH}.lora_B.weight": torch.ones(4, 2)}
    save_file(good | change, path, metadata)
    with pytest.raises(AdapterFileError, match=cause):
        load_adapter(path)
