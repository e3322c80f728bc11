"""Deltas stay what they are when alpha changes, in the file and in every reader."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.factors import LoHaFactors, LoRAFactors
from lora_diffusion.formats import load_adapter, save_adapter
from lora_diffusion.formats.alphas import with_one_alpha
from lora_diffusion.keys import LayerKey
from tests.lora_diffusion.formats.conftest import numbers

PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn{}.to_q"
TEXT = LayerKey("text_encoder", "text_model.encoder.layers.0.mlp.fc1")
RANKS = (2, 4, 4, 8)


@pytest.fixture
def mixed() -> AdapterFile:
    """alpha = rank, and ranks that differ; another in the text encoder."""
    layers = {
        LayerKey("unet", PATH.format(1 + i % 2).replace("_blocks.0", f"_blocks.{i // 2}", 1)):
        LoRAFactors(numbers(rank, 64, seed=i), numbers(32, rank, seed=9 + i), float(rank))
        for i, rank in enumerate(RANKS)
    }  # fmt: skip
    return AdapterFile(
        "sd15", {**layers, TEXT: LoRAFactors(torch.ones(4, 9), torch.ones(9, 4), 3.0)}
    )


def test_one_alpha_in_each_model(mixed: AdapterFile, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_adapter(mixed, path, dtype="fp32", one_alpha=True)
    read = load_adapter(path)
    assert {key.part: f.alpha for key, f in read.layers.items()} == {
        "unet": 4.0, "text_encoder": 3.0,
    }  # fmt: skip
    assert [f.rank for key, f in read.layers.items() if key != TEXT] == list(RANKS)
    for key, factors in mixed.layers.items():
        torch.testing.assert_close(read.layers[key].delta(), factors.delta())
        assert torch.equal(read.layers[key].down, factors.down)
    save_adapter(mixed, path, dtype="fp32")  # unless it is asked for, alphas are what they are
    assert {f.alpha for f in load_adapter(path).layers.values()} == {2.0, 3.0, 4.0, 8.0}


def test_layers_that_agree_keep_every_bit(mixed: AdapterFile) -> None:
    even = AdapterFile("sd15", {k: LoRAFactors(f.down, f.up, 2.0) for k, f in mixed.layers.items()})
    for key, factors in with_one_alpha(even).layers.items():
        assert torch.equal(factors.up, even.layers[key].up)
        assert torch.equal(factors.down, even.layers[key].down)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("format", ["kohya", "lycoris"])
def test_an_alpha_that_is_no_number_of_the_file(tmp_path: Path, dtype: str, format: str) -> None:
    alpha = 3 * math.sqrt(8)  # rsLoRA's, with alpha 3 and rank 8
    key = LayerKey("unet", PATH.format(1))
    factors = LoRAFactors(numbers(8, 320, seed=1), numbers(320, 8, seed=2), alpha)
    path = tmp_path / "x.safetensors"
    save_adapter(AdapterFile("sd15", {key: factors}), path, dtype=dtype, format=format)
    tensors = load_file(path)
    (stored,) = (float(tensor) for name, tensor in tensors.items() if name.endswith("alpha"))
    assert stored != alpha
    # As every reader does: alpha / rank * up @ down. The scale is the projection on the truth.
    down, up = (next(t for n, t in tensors.items() if f"lora_{side}" in n).double()
                for side in ("down", "up"))  # fmt: skip
    found, meant = stored / 8 * up @ down, alpha / 8 * factors.up.double() @ factors.down.double()
    error = abs(float((found * meant).sum() / meant.square().sum()) - 1)
    assert error < abs(stored / alpha - 1) / 4


def test_the_other_kinds(tmp_path: Path) -> None:
    """LoHa's alpha is kept to what the file can hold as well."""
    alpha = 3 * math.sqrt(8)
    key = LayerKey("unet", PATH.format(1))
    sides = [numbers(*shape, seed=i) for i, shape in enumerate([(64, 8), (8, 64)] * 2)]
    factors = LoHaFactors(sides[0], sides[1], sides[2], sides[3], alpha)
    path = tmp_path / "x.safetensors"
    save_adapter(AdapterFile("sd15", {key: factors}), path, dtype="bf16")
    found, meant = load_adapter(path).layers[key].delta(), factors.delta()
    error = abs(float((found * meant).sum() / meant.square().sum()) - 1)
    assert error < abs(float(torch.tensor(alpha).bfloat16()) / alpha - 1) / 4


def test_fp32_keeps_every_bit(tmp_path: Path) -> None:
    key = LayerKey("unet", PATH.format(1))
    factors = LoRAFactors(numbers(8, 32, seed=1), numbers(32, 8, seed=2), 3 * math.sqrt(8))
    path = tmp_path / "x.safetensors"
    save_adapter(AdapterFile("sd15", {key: factors}), path, dtype="fp32")
    assert torch.equal(load_adapter(path).layers[key].up, factors.up)
