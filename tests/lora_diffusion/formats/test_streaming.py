"""An adapter that is written layer by layer is the file that is written at once."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.factors import FullFactors, LoRAFactors
from lora_diffusion.formats import load_adapter, save_adapter
from lora_diffusion.formats.streaming import AdapterStream
from lora_diffusion.injection import AdapterConfig, inject
from lora_diffusion.keys import LayerKey
from tests.conftest import fill

KEY = LayerKey("unet", "mid_block.attentions.0.proj_in")


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_it_is_the_same_file(parts, tmp_path, dtype):
    handle = inject(parts, AdapterConfig(rank=3, targets="all"))
    fill(handle)
    adapter = handle.to_file("sd15")
    (tmp_path / "a").mkdir()
    save_adapter(adapter, tmp_path / "a" / "x.safetensors", dtype=dtype)
    with closing(AdapterStream(tmp_path / "b", "sd15", dtype)) as stream:
        stored = {key: stream.add(key, factors) for key, factors in adapter.layers.items()}
        stream.save(tmp_path / "b" / "x.safetensors", {})
    ours, theirs = (tmp_path / name / "x.safetensors" for name in "ba")
    assert ours.read_bytes() == theirs.read_bytes()
    for key, factors in load_adapter(ours).layers.items():
        assert torch.equal(factors.delta(), stored[key].delta())
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["x.safetensors"]


def test_layers_of_any_rank_get_one_alpha_and_keep_their_update(tmp_path):
    layers = {
        LayerKey("unet", f"mid_block.resnets.{i}.conv1"): LoRAFactors(
            torch.randn(rank, 4, 3, 3), torch.randn(6, rank, 1, 1), alpha
        )
        for i, (rank, alpha) in enumerate([(3, 300.0), (5, 2.0)])
    }
    layers[KEY] = FullFactors(torch.randn(4, 4, 1, 1))
    with closing(AdapterStream(tmp_path, "sd15", "fp32")) as stream:
        for key, factors in layers.items():
            stream.add(key, factors)
        stream.save(tmp_path / "x.safetensors", {"modelspec.title": "mine"})
    found = load_adapter(tmp_path / "x.safetensors")
    assert {f.alpha for f in found.layers.values() if f.kind == "lora"} == {300.0}
    assert found.metadata["modelspec.title"] == "mine"
    for key, factors in layers.items():
        torch.testing.assert_close(found.layers[key].delta(), factors.delta())


def test_what_cannot_be_stored_is_told(tmp_path):
    with closing(AdapterStream(tmp_path, "sd15", "fp16")) as stream:
        with pytest.raises(InputError, match="nothing to save"):
            stream.save(tmp_path / "x.safetensors", {})
        with pytest.raises(InputError, match=r"proj_in.*cannot hold"):
            stream.add(KEY, FullFactors(torch.full((4, 4), 1e6)))
    assert list(tmp_path.iterdir()) == []
