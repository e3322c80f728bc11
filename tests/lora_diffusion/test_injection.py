"""Injecting and removing: step-0 identity, byte-identical removal, several adapters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.dropout import Dropout
from lora_diffusion.errors import InputError
from lora_diffusion.factors import LoRAFactors
from lora_diffusion.injection import AdapterConfig, attach, inject
from lora_diffusion.keys import TEXT_ENCODER, UNET, LayerKey
from tests.conftest import fill, make_parts, state_bytes

EVERYTHING = AdapterConfig(targets="all", text_targets="all", rank=4, alpha=2.0)


DORA = replace(EVERYTHING, kind="dora")
DORA_OUT = replace(DORA, dora_axis="out")
RSLORA = replace(EVERYTHING, kind="rslora")
EACH_KIND = pytest.mark.parametrize("config", [EVERYTHING, RSLORA, DORA, DORA_OUT])


@pytest.mark.parametrize("targets", ["attn", "attn+ff", "transformer", "all"])
@torch.no_grad()
def test_step_zero_equals_the_base_bit_for_bit(parts, forward, targets):
    before = forward()
    inject(parts, AdapterConfig(targets=targets, text_targets=targets, rank=4))
    assert torch.equal(forward(), before)


@EACH_KIND
@torch.no_grad()
def test_every_kind_begins_as_the_base_even_beside_a_merged_adapter(parts, forward, config):
    before = forward()
    inject(parts, config).remove()
    one = inject(parts, EVERYTHING, name="one")
    fill(one)
    one.merge()
    merged = forward()
    two = inject(parts, config, name="two")
    assert torch.equal(forward(), merged)
    one.remove()
    assert torch.equal(forward(), before)
    two.merge()
    assert torch.equal(forward(), before)


@EACH_KIND
@torch.no_grad()
def test_removal_leaves_the_base_byte_identical(parts, forward, config):
    before = {name: state_bytes(model) for name, model in parts.items()}
    modules = {name: list(model.named_modules()) for name, model in parts.items()}
    output = forward()
    handle = inject(parts, config)
    fill(handle)
    assert not torch.equal(forward(), output)
    handle.merge()
    handle.remove()
    assert torch.equal(forward(), output)
    for name, model in parts.items():
        assert state_bytes(model) == before[name]
        assert list(state_bytes(model)) == list(before[name])
        assert [(n, id(m)) for n, m in model.named_modules()] == [
            (n, id(m)) for n, m in modules[name]
        ]


def test_only_the_adapter_is_trained_and_the_freeze_is_undone(parts, forward):
    parts[UNET].conv_in.requires_grad_(False)  # frozen by somebody else, and stays so
    handle = inject(parts, AdapterConfig(rank=4))
    forward().sum().backward()
    trained = {id(p) for p in handle.parameters()}
    for model in parts.values():
        for parameter in model.parameters():
            assert parameter.requires_grad == (id(parameter) in trained)
            assert (parameter.grad is not None) == (id(parameter) in trained)
    handle.remove()
    for model in parts.values():
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == (not name.startswith("conv_in."))


@torch.no_grad()
def test_adapters_are_independent_of_each_other_and_of_order(parts, forward):
    plain = forward()
    one = inject(parts, AdapterConfig(targets="attn", rank=4), name="one")
    two = inject(parts, AdapterConfig(targets="all", rank=2, text_targets="none"), name="two")
    fill(one, 1)
    fill(two, 2)
    both = forward()
    two.enabled = False
    only_one = forward()
    two.enabled, one.scale = True, 0.0
    only_two = forward()
    assert len({t.numpy().tobytes() for t in (plain, both, only_one, only_two)}) == 4
    one.remove()
    assert torch.equal(forward(), only_two)
    two.remove()
    assert torch.equal(forward(), plain)


@EACH_KIND
@torch.no_grad()
def test_attached_factors_act_as_the_adapter_they_were_taken_from(parts, forward, config):
    handle = inject(parts, config)
    fill(handle)
    handle.scale = 0.7
    expected = forward()
    file = handle.to_file("sd15")
    handle.remove()
    loaded = attach(parts, file)
    loaded.scale = 0.7
    assert torch.equal(forward(), expected)


def test_rank_and_alpha_by_pattern(parts):
    handle = inject(
        parts,
        AdapterConfig(
            rank=4,
            ranks={"*.attn2.*": 8, "unet.up_blocks.*.attn2.to_k": 2},
            alphas={"text_encoder.*": 1.0},
        ),
    )
    shapes = {key: (adapter.rank, adapter.alpha) for key, adapter in handle.adapters()}
    for key, (rank, alpha) in shapes.items():
        if key.part == TEXT_ENCODER:
            assert (rank, alpha) == (4, 1.0)
        elif key.path.startswith("up_blocks") and key.path.endswith("attn2.to_k"):
            assert (rank, alpha) == (2, 2.0)
        else:
            assert rank == alpha == (8 if ".attn2." in key.path else 4)


def test_blocks_of_the_unet_have_short_names(parts):
    ranks = {"down": 8, "mid": 2, "up.1": 6}
    handle = inject(parts, AdapterConfig(rank=4, ranks=ranks))
    found = {(k.part, k.path.split(".")[0]): a.rank for k, a in handle.adapters()}
    assert found == {
        ("unet", "down_blocks"): 8,
        ("unet", "mid_block"): 2,
        ("unet", "up_blocks"): 6,
        ("text_encoder", "text_model"): 4,
    }
    handle.remove()
    layers = inject(parts, AdapterConfig(targets="up.1, mid", text_targets="none")).layers
    assert {key.path.split(".")[0] for key in layers} == {"mid_block", "up_blocks"}
    assert not any(key.path.startswith("up_blocks.0") for key in layers)


@pytest.mark.parametrize("setting", ["ranks", "alphas"])
def test_a_pattern_that_matches_no_layer_is_an_error(parts, setting):
    before = state_bytes(parts["unet"])
    config = AdapterConfig(**{setting: {"*.attn2.*": 3, "*.atn1.*": 2}})
    with pytest.raises(InputError, match=rf"adapter\.{setting}: '\*\.atn1\.\*' matches no"):
        inject(parts, config)
    assert state_bytes(parts["unet"]) == before


@pytest.mark.parametrize(
    ("config", "linear", "conv"),
    [
        (AdapterConfig(targets="all", rank=8, conv_rank=2), (8, 8.0), (2, 2.0)),
        (AdapterConfig(targets="all", rank=8, alpha=4.0, conv_rank=2), (8, 4.0), (2, 1.0)),
        (AdapterConfig(targets="all", rank=8, alpha=4.0, conv_alpha=3.0), (8, 4.0), (8, 3.0)),
        (AdapterConfig(targets="all", rank=8, conv_rank=2, conv_alpha=3.0), (8, 8.0), (2, 3.0)),
        (AdapterConfig(targets="all", rank=4, kind="rslora", conv_rank=1), (4, 8.0), (1, 1.0)),
        (AdapterConfig(targets="all", conv_rank=2, ranks={"*": 3}), (3, 3.0), (3, 3.0)),
    ],
)
def test_rank_and_alpha_of_3x3_convolutions(parts, config, linear, conv):
    for _, adapter in inject(parts, config).adapters():
        above_1x1 = adapter.down.shape[2:] == (3, 3)
        assert (adapter.rank, adapter.alpha) == (conv if above_1x1 else linear)


def test_a_magnitude_that_does_not_fit_is_refused(parts):
    file = inject(make_parts(), DORA).to_file("sd15")
    key, factors = next(iter(file.layers.items()))
    for changes in ({"magnitude": torch.ones(1, 3)}, {"axis": "out"}):
        layers = {key: replace(factors, **changes)}
        with pytest.raises(InputError, match="DoRA magnitude"):
            attach(parts, replace(file, layers=layers))


def test_targets_by_pattern_and_none(parts):
    config = AdapterConfig(targets="*.attn2.to_k, mid_block.*.conv1", text_targets="none")
    paths = {key.path for key in inject(parts, config).layers}
    assert all(p.endswith("attn2.to_k") or p.startswith("mid_block") for p in paths)
    assert any(p.startswith("mid_block") for p in paths)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdapterConfig(targets="*.attn9.*"), "attn9"),
        (AdapterConfig(targets="none", text_targets="none"), "both 'none'"),
        (AdapterConfig(targets=" , "), "empty"),
    ],
)
def test_targets_that_name_nothing_are_refused(parts, config, message):
    before = {name: list(state_bytes(model)) for name, model in parts.items()}
    with pytest.raises(InputError, match=message):
        inject(parts, config)
    assert {name: list(state_bytes(model)) for name, model in parts.items()} == before


def test_a_name_is_used_once_and_has_no_dot(parts):
    inject(parts, AdapterConfig(rank=2), name="a")
    with pytest.raises(InputError, match="Remove it first"):
        inject(parts, AdapterConfig(rank=2), name="a")
    with pytest.raises(InputError, match="dot"):
        inject(parts, AdapterConfig(rank=2), name="a.b")


def test_files_that_do_not_fit_are_refused_before_anything_changes(parts):
    def file(key: LayerKey, inputs: int) -> AdapterFile:
        return AdapterFile(
            "sd15", {key: LoRAFactors(torch.zeros(2, inputs), torch.zeros(32, 2), 2.0)}
        )

    query = next(k for k in inject(make_parts(), AdapterConfig()).layers if k.part == UNET)
    with pytest.raises(InputError, match="lacks"):
        attach(parts, file(LayerKey(UNET, "no.such.layer"), 8))
    with pytest.raises(InputError, match="fits a weight of shape"):
        attach(parts, file(query, 999))
    assert not any("adapters" in name for name, _ in parts[UNET].named_modules())


def test_gradient_checkpointing_gives_the_same_gradients_under_dropout():
    config = AdapterConfig(rank=4, dropout=Dropout(rank=0.3, module=0.2, neuron=0.2))

    def gradients(checkpointed: bool) -> list[torch.Tensor]:
        parts: dict[str, nn.Module] = make_parts()
        handle = inject(parts, config)
        fill(handle)
        handle.clock.set(seed=1, step=7)
        for model in parts.values():
            model.train()
        if checkpointed:
            parts[UNET].enable_gradient_checkpointing()
        source = torch.Generator().manual_seed(1)
        latents = torch.randn(2, 4, 8, 8, generator=source)
        context = parts[TEXT_ENCODER](torch.arange(77).repeat(2, 1)).last_hidden_state
        output = parts[UNET](latents, torch.tensor([3, 9]), encoder_hidden_states=context).sample
        output.square().sum().backward()
        return [p.grad for p in handle.parameters()]

    for plain, again in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-5, atol=1e-6)
