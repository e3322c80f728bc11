"""The table of layers agrees with the models that the libraries build, at true size and small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lora_diffusion import base_layers
from lora_diffusion.injection import adaptable_shapes
from tests.lora_diffusion.families.other_models import make_sdxl
from tests.lora_diffusion.families.sd15_models import make_models

CONFIGS = Path(base_layers.__file__).parent / "families" / "configs"


def empty_models(configs: Path, arch: str) -> dict[str, nn.Module]:
    """The models of these configurations, without memory for their weights."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    parts: dict[str, nn.Module] = {}
    with init_empty_weights():
        for part in base_layers.parts_of(arch):
            config: dict[str, Any] = json.loads((configs / part / "config.json").read_text())
            if part == "unet":
                parts[part] = UNet2DConditionModel.from_config(config)
            else:
                kind = CLIPTextModelWithProjection if part.endswith("2") else CLIPTextModel
                parts[part] = kind(CLIPTextConfig.from_dict(config))
    return parts


@pytest.mark.parametrize("arch", ["sd15", "sd21", "sdxl"])
def test_true_size(arch: str) -> None:
    expected = adaptable_shapes(empty_models(CONFIGS / arch, arch))
    assert base_layers.true_size(arch) == expected


def test_other_depths(demo_base: Path) -> None:
    expected = adaptable_shapes(empty_models(demo_base, "sd15"))
    configs = {
        part: json.loads((demo_base / part / "config.json").read_text())
        for part in ("unet", "text_encoder")
    }
    assert base_layers.of_configs(configs) == expected


def test_small_models_of_every_class() -> None:
    for models in (make_models(), make_sdxl()):
        parts = {name: model for name, model in models.parts().items() if name != "vae"}
        configs = {name: dict(model.config.to_dict() if name != "unet" else model.config)
                   for name, model in parts.items()}  # fmt: skip
        assert base_layers.of_configs(configs) == adaptable_shapes(parts)
