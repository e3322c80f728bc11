"""Random adapters of true size: which layers and names they have, and that they read back."""

from __future__ import annotations

import pytest
import torch

from lora_diffusion import base_layers
from lora_diffusion.errors import InputError
from lora_diffusion.formats import FORMATS
from lora_diffusion.formats.decoding import decode
from lora_diffusion.formats.encoding import encode
from lora_diffusion.formats.kohya_names import spell_kohya
from lora_diffusion.formats.reading import lay_out_spelled
from lora_diffusion.injection import AdapterConfig
from lora_diffusion.probe import DELTA_RMS, probe

TRUE = {"targets": "transformer", "text_targets": "transformer", "rank": 1, "alpha": 0.5}
# kohya's default set: UNet and text encoders, by architecture, and what convolutions add.
MODULES = {
    "sd15": {"unet": 192, "text_encoder": 72},
    "sd21": {"unet": 192, "text_encoder": 138},
    "sdxl": {"unet": 722, "text_encoder": 72, "text_encoder_2": 192},
}
CONVOLUTIONS = {"sd15": 86, "sd21": 86, "sdxl": 66}
KEYS = {"lora": 3, "locon": 3, "dora": 4, "loha": 5, "lokr": 4}


def config(kind: str, **changes) -> AdapterConfig:
    if kind == "locon":
        return AdapterConfig(**{**TRUE, "targets": "all", **changes})
    return AdapterConfig(kind=kind, **{**TRUE, **changes})


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("arch", MODULES)
def test_names_are_as_many_as_they_should_be_and_read_back(arch, kind):
    adapter = probe(arch, config(kind))
    expected = dict(MODULES[arch])
    expected["unet"] += CONVOLUTIONS[arch] if kind == "locon" else 0
    assert adapter.modules_by_part() == expected
    tensors = encode(adapter, torch.float32, "kohya").pieces[""]
    assert len(tensors) == KEYS[kind] * sum(expected.values())
    if kind == "lora":
        counts = {"sd15": (264, 792), "sd21": (330, 990), "sdxl": (986, 2958)}
        assert (len(adapter.layers), len(tensors)) == counts[arch]
    if arch == "sdxl":
        stems = {name for name in tensors if name.startswith("lora_unet_")}
        original = ("lora_unet_input_blocks_", "lora_unet_middle_", "lora_unet_output_blocks_")
        assert all(name.startswith(original) for name in stems)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    laid = lay_out_spelled("x", shapes, spell_kohya("x", tensors), {})
    back = decode(tensors, laid, {}).adapter
    assert back.arch == arch
    assert back.layers.keys() == adapter.layers.keys()
    table = base_layers.true_size(arch)
    for key, factors in adapter.layers.items():
        assert factors.weight_shape == table[key]
        again = back.layers[key].shaped(table[key])
        assert (again.kind, again.alpha) == (factors.kind, factors.alpha)
        ours, theirs = factors.tensors(), again.tensors()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("rank", [1, 8, 400])
def test_updates_are_of_the_size_that_is_said(kind, rank):
    few = {
        "targets": "*down_blocks.0.*.0.attn1.to_q, *mid_block.resnets.0.conv1",
        "text_targets": "none",
    }
    adapter = probe("sd15", config(kind, rank=rank, **few))
    sizes = []
    for factors in adapter.layers.values():
        weight = 0.02 * torch.randn(factors.weight_shape)
        if kind == "dora":
            ratio = factors.magnitude / (0.02 * (weight.numel() / factors.magnitude.numel()) ** 0.5)
            assert 0.5 < ratio.min() <= ratio.max() < 1.5
            continue
        sizes.append(float(factors.delta(weight).square().mean().sqrt()))
    assert all(DELTA_RMS / 2 < size < 2 * DELTA_RMS for size in sizes)


def test_the_numbers_follow_from_the_seed():
    one, same, other = (
        probe("sd15", config("loha", targets="*.attn2.to_k", text_targets="none", seed=seed))
        for seed in (1, 1, 2)
    )
    for key, factors in one.layers.items():
        tensors, others = factors.tensors(), other.layers[key].tensors()
        for name, tensor in same.layers[key].tensors().items():
            assert torch.equal(tensor, tensors[name])
            assert not torch.equal(tensor, others[name])


def test_what_matches_nothing_is_an_error():
    with pytest.raises(InputError, match="matches no layer"):
        probe("sd15", config("lora", targets="*.attn3.*"))
    with pytest.raises(InputError, match="both 'none'"):
        probe("sd15", config("lora", targets="none", text_targets="none"))


@pytest.mark.parametrize("format", FORMATS)
def test_every_dialect_says_a_lora(format):
    text = "none" if format == "lycoris" else "transformer"
    encoded = encode(probe("sdxl", config("lora", text_targets=text)), torch.float16, format)
    modules = sum(len(tensors) for tensors in encoded.pieces.values())
    assert modules == {"kohya": 2958, "lycoris": 3 * 722, "diffusers": 1972, "peft": 1972}[format]
