"""Folding many adapters into one file, and the errors that it reports."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_diffusion import compose, load
from lora_diffusion.composition.cut import Limit
from lora_diffusion.composition.fold import DENSITIES, FoldSettings, fold, max_error
from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError
from lora_diffusion.formats import lazy
from lora_diffusion.formats.header import read_header
from lora_diffusion.keys import UNET, live_modules
from tests.lora_diffusion.composition.conftest import WEIGHTS, write_four
from tests.lora_diffusion.families import sd15_models
from tests.lora_diffusion.formats.test_diffusers import merged_deltas, pipeline_of

EXACT = FoldSettings(dtype="fp32")


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    """A tiny base on the disk: DoRA's update is a function of its weights."""
    models = sd15_models.make_models()
    return sd15_models.save_folder(models, tmp_path_factory.mktemp("base") / "tiny"), models


@pytest.fixture(scope="module")
def files(base_folder, tmp_path_factory):
    _, models = base_folder
    parts = {UNET: models.unet, "text_encoder": models.text}
    return write_four(parts, tmp_path_factory.mktemp("files")), parts


def weighed(paths, weights=WEIGHTS):
    return [(path, Weights(weight)) for path, weight in zip(paths, weights, strict=False)]


def test_lora_and_locon_are_joined_rank_by_rank(files, tmp_path):
    (lora, locon, *_), parts = files
    out = tmp_path / "joined.safetensors"
    done = fold(weighed([lora, locon]), out, EXACT)
    assert max_error(done) < 1e-6
    assert {layer.kind for layer in done} == {"lora"}
    one, two, joined = load(lora), load(locon), load(out)
    for key, factors in joined.layers.items():
        ranks = [f.layers[key].rank for f in (one, two) if key in f.layers]
        assert factors.rank == sum(ranks)
    assert len({factors.alpha for factors in joined.layers.values()}) == 1
    with compose(parts, weighed([lora, locon])) as composition:
        wanted = {key: composition.weight(key) for key in composition.adapted()}
    with compose(parts, [(out, 1)]) as composition:
        assert set(composition.adapted()) == set(wanted)
        for key, weight in wanted.items():
            torch.testing.assert_close(composition.weight(key), weight, rtol=1e-5, atol=1e-6)


def test_diffusers_reads_the_joined_file_as_the_sum(files, tmp_path):
    pytest.importorskip("peft")
    (lora, locon, *_), _ = files
    out = tmp_path / "joined.safetensors"
    fold(weighed([lora, locon]), out, EXACT)
    models = sd15_models.make_models()
    theirs = {UNET: models.unet, "text_encoder": models.text}
    pipeline_of(theirs).load_lora_weights(str(out))
    found = merged_deltas(theirs)
    one, two = load(lora), load(locon)
    assert found.keys() == one.layers.keys() | two.layers.keys()
    for key, delta in found.items():
        expected = sum(
            weight * file.layers[key].delta().reshape(delta.shape)
            for file, weight in ((one, WEIGHTS[0]), (two, WEIGHTS[1]))
            if key in file.layers
        )
        torch.testing.assert_close(delta, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight", [0.5, -2.0])
def test_a_weight_counts_once_and_there_are_no_cross_terms(files, tmp_path, weight):
    (lora, *_), _ = files
    before = load(lora)
    fold([(lora, Weights(weight))], tmp_path / "one.safetensors", EXACT)
    for key, factors in load(tmp_path / "one.safetensors").layers.items():
        expected = weight * before.layers[key].delta()
        torch.testing.assert_close(factors.delta(), expected, rtol=1e-5, atol=1e-6)
    out = tmp_path / "none.safetensors"
    fold([(lora, Weights(1)), (lora, Weights(-1))], out, EXACT)
    assert all(factors.delta().abs().max() < 1e-5 for factors in load(out).layers.values())


def test_the_order_of_the_files_changes_no_byte(files, base_folder, tmp_path):
    paths, _ = files
    paths = [paths[0], *paths[2:]]
    outs = [tmp_path / "a" / "folded.safetensors", tmp_path / "b" / "folded.safetensors"]
    fold(weighed(paths), outs[0], FoldSettings(), base=base_folder[0])
    fold(reversed(weighed(paths)), outs[1], FoldSettings(), base=base_folder[0])
    assert load_file(outs[0]).keys() == load_file(outs[1]).keys()
    for name, tensor in load_file(outs[0]).items():
        assert torch.equal(tensor, load_file(outs[1])[name])


def test_all_kinds_fold_exactly_and_round_as_told(files, base_folder, tmp_path):
    paths, parts = files
    out = tmp_path / "all.safetensors"
    done = fold(weighed(paths), out, EXACT, base=base_folder[0])
    assert {layer.kind for layer in done} == {"lora", "full"}
    with compose(parts, weighed(paths)) as composition:
        wanted = {key: composition.weight(key) for key in composition.adapted()}
    with compose(parts, [(out, 1)]) as composition:
        for key, weight in wanted.items():
            torch.testing.assert_close(composition.weight(key), weight, rtol=1e-5, atol=1e-5)
    halves = fold(
        weighed(paths), tmp_path / "half.safetensors", FoldSettings(), base=base_folder[0]
    )
    assert all(layer.error_before_rounding < 1e-6 for layer in halves)
    assert 1e-5 < max_error(halves) < 2e-3
    with pytest.raises(InputError, match=r"^dora: .*Name the base model"):
        fold(weighed(paths), tmp_path / "no.safetensors", EXACT)
    assert not (tmp_path / "no.safetensors").exists()


@pytest.mark.parametrize(
    "settings",
    [
        FoldSettings("svd", Limit(rank=2)),
        FoldSettings("svd", Limit(error=0.3)),
        FoldSettings("ties", Limit(3)),
        FoldSettings("ties", density=0.5, dtype="bf16"),
        FoldSettings("dare", density=0.7),
        FoldSettings("prune"),
        FoldSettings("orthogonal", Limit(4)),
        FoldSettings("orthogonal", dtype="fp32"),
    ],
    ids=str,
)
def test_reported_errors_are_those_of_the_file(files, base_folder, tmp_path, settings):
    """Worked out again from the files' numbers, in numpy and fp64."""
    paths, parts = files
    out = tmp_path / "folded.safetensors"
    done = {f.key: f for f in fold(weighed(paths), out, settings, base=base_folder[0])}
    found = load(out)
    modules = live_modules(parts)
    shapes = {key: tuple(modules[key].weight.shape) for key in done}
    sources = [load(path, {k: tuple(m.weight.shape) for k, m in modules.items()
                           if hasattr(m, "weight") and m.weight.dim() in (2, 4)})
               for path in paths]  # fmt: skip
    for key, layer in done.items():
        own = modules[key].weight.detach()
        exact = np.zeros(shapes[key])
        for source, weight in zip(sources, WEIGHTS, strict=True):
            if key in source.layers:
                exact += weight * source.layers[key].delta(own).double().numpy()
        factors = found.layers[key]
        if layer.kind == "lora":
            up, down = (t.double().numpy() for t in (factors.up, factors.down))
            flat = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
            stored = (factors.alpha / factors.rank * flat).reshape(shapes[key])
        else:
            stored = factors.diff.double().numpy()
        error = np.linalg.norm(stored - exact) / np.linalg.norm(exact)
        assert np.isclose(layer.error, error, rtol=1e-3, atol=1e-6), key
        if settings.method == "svd":
            values = np.linalg.svd(exact.reshape(len(exact), -1), compute_uv=False)
            left_out = np.sqrt(np.append(np.cumsum(values[::-1] ** 2)[::-1], 0.0))
            best = left_out[layer.rank] / left_out[0]
            assert np.isclose(layer.error_before_rounding, best, rtol=1e-3, atol=1e-5), key
            if settings.limit.error is None:
                assert layer.rank <= settings.limit.rank
            else:  # the fewest ranks that keep to the error
                assert layer.error_before_rounding <= settings.limit.error + 1e-6
                assert (
                    layer.rank == 1 or left_out[layer.rank - 1] / left_out[0] > settings.limit.error
                )
        if settings.method in DENSITIES:
            assert layer.error > 0.05


def test_the_file_says_what_it_is_made_of(files, tmp_path):
    (lora, locon, *_), _ = files
    out = tmp_path / "both.safetensors"
    fold(weighed([lora, locon])[::-1], out, FoldSettings())
    metadata = read_header(out).metadata
    assert metadata["modelspec.merged_from"] == "locon, lora"
    assert metadata["ss_training_comment"] == "folded by exact: locon (0.5); lora (0.8)"
    assert metadata["ss_output_name"] == "both"
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert not any(key.startswith("lora_diffusion") for key in metadata)


def test_what_the_files_say_of_their_base_stays(files, tmp_path):
    (lora, locon, *_), _ = files
    told = {
        "modelspec.prediction_type": "v",
        "ss_base_model_version": "sd_v2_v",
        "modelspec.trigger_phrase": "ohwx, ink",
    }
    paths = []
    for path, more in ((lora, {"ss_sd_model_name": "a"}), (locon, {"ss_sd_model_name": "b"})):
        paths.append(tmp_path / path.name)
        save_file(load_file(path), paths[-1], metadata=told | more)
    fold(weighed(paths), tmp_path / "both.safetensors", FoldSettings())
    metadata = read_header(tmp_path / "both.safetensors").metadata
    assert told.items() <= metadata.items()
    assert metadata.get("ss_sd_model_name") is None  # they disagree


def test_layers_are_read_and_written_one_at_a_time(files, tmp_path, monkeypatch):
    (lora, locon, *_), _ = files
    reads = []
    monkeypatch.setattr(
        lazy.LayersOnDisk,
        "__getitem__",
        lambda self, key, own=lazy.LayersOnDisk.__getitem__: reads.append(key) or own(self, key),
    )
    at = []
    fold(
        weighed([lora, locon]),
        tmp_path / "out.safetensors",
        FoldSettings(),
        on_layer=lambda done, total: at.append((done, total, len(set(reads)))),
    )
    assert [done for done, _, _ in at] == [read for _, _, read in at]
    assert at[-1][0] == at[-1][1]
    assert len(reads) == len(load(lora).layers) + len(load(locon).layers)


def test_what_cannot_be_folded_is_told(files, tmp_path):
    (lora, *_), _ = files
    one = [(lora, Weights())]
    with pytest.raises(InputError, match=r"lora\.safetensors: is one of the files"):
        fold(one, lora, FoldSettings())
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        fold(one, tmp_path / "out.bin", FoldSettings())
    with pytest.raises(InputError, match="change with the steps"):
        fold([(lora, Weights.parse("steps=0.5:0"))], tmp_path / "o.safetensors", FoldSettings())
    with pytest.raises(InputError, match="nothing to save"):
        fold([(lora, Weights(0))], tmp_path / "o.safetensors", FoldSettings())
    for settings, word in (
        ({"method": "svd"}, "needs a rank"),
        ({"limit": Limit(4)}, "cuts no ranks"),
        ({"method": "svd", "limit": Limit(1), "density": 0.5}, "no density"),
        ({"method": "ties", "density": 0.0}, "above 0"),
    ):
        with pytest.raises(InputError, match=word):
            FoldSettings(**settings)
    assert list(tmp_path.iterdir()) == []
