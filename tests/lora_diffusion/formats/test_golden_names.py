"""The names and shapes of every dialect, pinned: a change here is a change other tools will see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.factors import DoRAFactors, LoRAFactors
from lora_diffusion.formats import FORMATS
from lora_diffusion.formats.encoding import encode
from lora_diffusion.keys import LayerKey

GOLDEN = Path(__file__).parent / "golden" / "dialects.json"


def adapter(arch: str, format: str) -> AdapterFile:
    """One layer of each sort that `format` can say for `arch`."""
    width = {"sd15": 768, "sd21": 1024, "sdxl": 2048}[arch]
    dora = torch.ones(8, 1), "out"
    layers = {
        LayerKey("unet", "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k"): LoRAFactors(
            torch.ones(2, width), torch.ones(8, 2), 1.0
        ),
        LayerKey("unet", "up_blocks.1.resnets.2.conv_shortcut"): LoRAFactors(
            torch.ones(2, 6, 1, 1), torch.ones(8, 2, 1, 1), 1.0
        ),
        LayerKey("unet", "up_blocks.0.upsamplers.0.conv"): LoRAFactors(
            torch.ones(3, 6, 3, 3), torch.ones(8, 3, 1, 1), 1.0
        ),
        LayerKey("unet", "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"): LoRAFactors(
            torch.ones(2, 6), torch.ones(8, 2), 1.0
        ),
    }
    if format != "lycoris":
        parts = ("text_encoder", "text_encoder_2") if arch == "sdxl" else ("text_encoder",)
        for part in parts:
            layers[LayerKey(part, "text_model.encoder.layers.3.self_attn.out_proj")] = DoRAFactors(
                torch.ones(2, 6), torch.ones(8, 2), 1.0, *dora
            )
    return AdapterFile(arch, layers)


def names(arch: str, format: str) -> dict[str, dict[str, list[int]]]:
    encoded = encode(adapter(arch, format), torch.float32, format)
    return {
        part: {name: list(tensor.shape) for name, tensor in sorted(tensors.items())}
        for part, tensors in encoded.pieces.items()
    }


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("arch", ["sd15", "sd21", "sdxl"])
def test_names_and_shapes(arch: str, format: str) -> None:
    assert names(arch, format) == json.loads(GOLDEN.read_text())[f"{format} {arch}"]
