"""Small files, good and bad, for the format tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.factors import LoRAFactors
from lora_diffusion.keys import LayerKey

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "F64": 8, "U8": 1}


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def adapter() -> AdapterFile:
    """A linear layer, a 1 x 1 and a 3 x 3 convolution, and a text-encoder layer; SD 1.x widths."""
    layers = {
        LayerKey("unet", ATTENTION): LoRAFactors(
            numbers(4, 768, seed=1), numbers(32, 4, seed=2), 2.0
        ),
        LayerKey("unet", "down_blocks.0.attentions.0.proj_in"): LoRAFactors(
            numbers(4, 32, 1, 1, seed=3), numbers(32, 4, 1, 1, seed=4), 4.0
        ),
        LayerKey("unet", "mid_block.resnets.1.conv2"): LoRAFactors(
            numbers(2, 16, 3, 3, seed=5), numbers(24, 2, 1, 1, seed=6), 1.5
        ),
        LayerKey("text_encoder", "text_model.encoder.layers.11.mlp.fc1"): LoRAFactors(
            numbers(8, 768, seed=7), numbers(48, 8, seed=8), 8.0
        ),
    }
    return AdapterFile("sd15", layers)


@pytest.fixture
def raw_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a file from a header (a dict, text or bytes) and the data after it."""

    def write(
        header: Mapping[str, Any] | str | bytes,
        data: bytes = b"",
        *,
        name: str = "it.safetensors",
        length: int | None = None,
    ) -> Path:
        if isinstance(header, Mapping):
            header = json.dumps(header)
        raw = header.encode() if isinstance(header, str) else header
        path = tmp_path / name
        size = len(raw) if length is None else length
        path.write_bytes(size.to_bytes(8, "little") + raw + data)
        return path

    return write


@pytest.fixture
def shaped_file(raw_file: Callable[..., Path]) -> Callable[..., Path]:
    """Write a well-formed file from name -> (dtype, shape); its data is zeros, sparse on disk."""

    def write(
        tensors: Mapping[str, tuple[str, list[int]]],
        metadata: Mapping[str, str] | None = None,
        name: str = "it.safetensors",
        fill: bytes = b"",
    ) -> Path:
        header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
        position = 0
        for tensor, (dtype, shape) in tensors.items():
            end = position + SIZES[dtype] * int(torch.tensor(shape).prod())
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
            position = end
        path = raw_file(header, fill, name=name)
        with path.open("rb+") as file:
            file.truncate(path.stat().st_size - len(fill) + position)
        return path

    return write
