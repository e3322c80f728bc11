"""Small adapter files, made by this library and by sd-scripts' hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.factors import LoRAFactors
from lora_diffusion.formats import save_adapter
from lora_diffusion.formats.metadata import TrainingFacts, thumbnail_data_url
from lora_diffusion.keys import LayerKey
from trainers.layering import build_spec, to_toml

KEY = LayerKey("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k")

SD_SCRIPTS = {
    "ss_output_name": "ink_fox",
    "ss_base_model_version": "sd_v1",
    "ss_v2": "False",
    "ss_sd_model_name": "anything.safetensors",
    "ss_sd_model_hash": "abcd1234",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "16",
    "ss_network_alpha": "8.0",
    "ss_network_args": json.dumps({"conv_dim": "8", "conv_alpha": "4"}),
    "ss_learning_rate": "0.0001",
    "ss_unet_lr": "0.0002",
    "ss_text_encoder_lr": "5e-05",
    "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99))",
    "ss_lr_scheduler": "cosine_with_restarts",
    "ss_lr_warmup_steps": "100",
    "ss_max_train_steps": "1200",
    "ss_num_epochs": "10",
    "ss_batch_size_per_device": "2",
    "ss_gradient_accumulation_steps": "1",
    "ss_gradient_checkpointing": "True",
    "ss_mixed_precision": "fp16",
    "ss_seed": "0",
    "ss_clip_skip": "2",
    "ss_min_snr_gamma": "5.0",
    "ss_noise_offset": "0.05",
    "ss_vae_name": "kl-f8.pt",
    "ss_face_crop_aug_range": "None",
    "ss_num_train_images": "60",
    "ss_tag_frequency": json.dumps({"10_ink fox": {"fox": 6, "snow": 2}}),
    "ss_datasets": json.dumps(
        [
            {
                "resolution": [512, 512],
                "enable_bucket": True,
                "min_bucket_reso": 256,
                "subsets": [
                    {
                        "image_dir": "10_ink fox",
                        "num_repeats": 10,
                        "class_tokens": "ink fox",
                        "is_reg": False,
                        "shuffle_caption": True,
                        "keep_tokens": 1,
                        "flip_aug": True,
                        "color_aug": True,
                    }
                ],
            }
        ]
    ),
}


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    return {
        f"{name}.lora_down.weight": torch.randn(4, 768, generator=source),
        f"{name}.lora_up.weight": torch.randn(320, 4, generator=source),
        f"{name}.alpha": torch.tensor(4.0),
    }


def save_sd_scripts(path: Path, seed: int = 0, **changes: str) -> None:
    save_file(tensors(seed), path, metadata=SD_SCRIPTS | changes)


def save_own(path: Path) -> None:
    spec = build_spec([{"adapter": {"rank": 4}, "optim": {"lr_unet": 3e-4}}])
    factors = LoRAFactors(torch.randn(4, 768), torch.randn(320, 4), 4.0)
    save_adapter(
        AdapterFile("sd15", {KEY: factors}),
        path,
        facts=TrainingFacts(
            title="Snow fox",
            base="demo_base",
            trigger_words=("snwfx",),
            description="Winter pictures",
            tag_counts={"foxes": {"snow": 9, "night": 3}},
            thumbnail=thumbnail_data_url(Image.new("RGB", (40, 30), "red")),
            job=to_toml(spec),
        ),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two adapters, one of them nested, a broken file and one that is no adapter."""
    place = tmp_path / "loras"
    (place / "sub").mkdir(parents=True)
    save_own(place / "snow.safetensors")
    save_sd_scripts(place / "sub" / "ink.safetensors")
    (place / "cut.safetensors").write_bytes((place / "snow.safetensors").read_bytes()[:300])
    save_file({"model.weight": torch.zeros(2)}, place / "other.safetensors")
    return place
