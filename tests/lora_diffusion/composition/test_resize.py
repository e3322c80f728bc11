"""Adapters with fewer ranks, and adapters out of two checkpoints."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_diffusion import load
from lora_diffusion.composition.bake import bake
from lora_diffusion.composition.cut import Limit, cut_dense
from lora_diffusion.composition.fold import max_error
from lora_diffusion.composition.resize import extract, resize
from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError
from lora_diffusion.formats.header import read_header
from lora_diffusion.injection import AdapterConfig, inject
from lora_diffusion.keys import UNET
from tests.conftest import fill
from tests.lora_diffusion.composition.conftest import write_four
from tests.lora_diffusion.families import other_models, sd15_models


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    models = sd15_models.make_models()
    folder = sd15_models.save_folder(models, tmp_path_factory.mktemp("base") / "tiny")
    return folder, {UNET: models.unet, "text_encoder": models.text}


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (5, 4, 3, 3), (7, 7)])
def test_cutting_is_the_best_of_its_rank(shape):
    update = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = np.linalg.svd(update.flatten(1).double().numpy(), compute_uv=False)
    norm = np.linalg.norm(values)
    for rank in (1, 3, 100):
        found = cut_dense(update, Limit(rank))
        assert found.rank == min(rank, len(values))
        error = float((found.delta() - update).norm()) / norm
        assert math.isclose(error, np.linalg.norm(values[rank:]) / norm, abs_tol=1e-6)
    energy = float((values[:2] ** 2).sum() / norm**2)
    assert cut_dense(update, Limit.of_energy(energy - 1e-6)).rank == 2
    assert cut_dense(update, Limit.of_energy(energy + 1e-6)).rank == 3
    assert cut_dense(update, Limit(2, error=0.0)).rank == 2
    assert cut_dense(torch.zeros(shape), Limit(4)).delta().abs().max() == 0


def test_resizing_every_kind(base, tmp_path):
    _, parts = base
    for path in write_four(parts, tmp_path):
        out = tmp_path / "small.safetensors"
        done = {layer.key: layer for layer in resize(path, out, Limit(2), dtype="fp32")}
        before, after = load(path), load(out)
        assert after.layers.keys() == before.layers.keys() == done.keys()
        for key, factors in after.layers.items():
            source = before.layers[key]
            assert factors.rank <= 2
            if path.stem == "dora":
                assert factors.kind == "dora"
                assert torch.equal(factors.magnitude, source.magnitude)
                assert 0 < done[key].error < 1
                continue
            exact = source.delta().double().numpy()
            error = np.linalg.norm(factors.delta().double().numpy() - exact)
            assert math.isclose(done[key].error, error / np.linalg.norm(exact), abs_tol=1e-5)
        assert max_error(done.values()) < 1


def test_a_resized_file_speaks_for_itself(base, tmp_path):
    _, parts = base
    handle = inject(parts, AdapterConfig(rank=8, seed=1))
    fill(handle, 1)
    handle.save(tmp_path / "big.safetensors")
    handle.remove()
    tensors = load_file(tmp_path / "big.safetensors")
    told = {**read_header(tmp_path / "big.safetensors").metadata, "ss_tag_frequency": '{"a": {}}'}
    save_file(tensors, tmp_path / "big.safetensors", metadata=told)
    done = resize(tmp_path / "big.safetensors", tmp_path / "small.safetensors", Limit(4))
    metadata = read_header(tmp_path / "small.safetensors").metadata
    assert metadata["ss_network_dim"] == "4"
    assert metadata["ss_output_name"] == "small"
    assert metadata["ss_tag_frequency"] == '{"a": {}}'
    assert metadata["ss_training_comment"] == "resized from big"
    assert all(layer.rank == 4 for layer in done)
    with pytest.raises(InputError, match="go in"):
        resize(tmp_path / "big.safetensors", tmp_path / "big.safetensors", Limit(4))
    with pytest.raises(InputError, match="rank, an energy or an error"):
        resize(tmp_path / "big.safetensors", tmp_path / "small.safetensors", Limit())


def test_what_was_baked_is_extracted(base, tmp_path):
    folder, parts = base
    locon = write_four(parts, tmp_path)[1]
    bake(folder, [(locon, Weights(0.5))], tmp_path / "tuned")
    out = tmp_path / "extracted.safetensors"
    found = extract(tmp_path / "tuned", folder, out, Limit(3), dtype="fp32")
    before, after = load(locon), load(out)
    assert after.layers.keys() == before.layers.keys()
    assert found.left_out == ()
    for key, factors in after.layers.items():
        expected = 0.5 * before.layers[key].delta()
        torch.testing.assert_close(factors.delta(), expected, rtol=1e-3, atol=1e-5)
    assert max_error(found.layers) < 1e-3
    one = extract(tmp_path / "tuned", folder, out, Limit(1), targets_="attn", text_targets="none")
    assert {key.part for key in load(out).layers} == {UNET}
    assert one.left_out
    assert 0.05 < one.share_left_out < 1
    assert 0.1 < max_error(one.layers) < 1


def test_an_extracted_file_says_what_its_base_predicts(tmp_path):
    models = other_models.make_sd21()
    base = other_models.save_sd21(models, tmp_path / "base")  # of v-prediction
    tuned = Path(shutil.copytree(base, tmp_path / "tuned"))
    file = next((tuned / "unet").glob("*.safetensors"))
    tensors = load_file(file)
    tensors["mid_block.attentions.0.proj_in.weight"] += 0.1
    save_file(tensors, file)
    found = extract(tuned, base, tmp_path / "out.safetensors", Limit(1))
    assert [layer.rank for layer in found.layers] == [1]
    metadata = read_header(tmp_path / "out.safetensors").metadata
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["ss_base_model_version"] == "sd_v2_v"
    assert metadata["ss_sd_model_name"] == "base"


def test_what_cannot_be_extracted_is_told(base, tmp_path):
    folder, _ = base
    out = tmp_path / "out.safetensors"
    with pytest.raises(InputError, match="same weights"):
        extract(folder, folder, out, Limit(2))
    other = other_models.save_sd21(other_models.make_sd21(), tmp_path / "other")
    with pytest.raises(InputError, match=r"other and tiny are not of one shape"):
        extract(other, folder, out, Limit(2))
    for limit, word in (({"rank": 0}, "at least 1"), ({"error": 1.5}, "between 0 and 1")):
        with pytest.raises(InputError, match=word):
            Limit(**limit)
    with pytest.raises(InputError, match="energy"):
        Limit.of_energy(0)
    assert not out.exists()
