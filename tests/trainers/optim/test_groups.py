"""Groups of the optimizer: LoRA+, rates by layer, and what DoRA's magnitude is spared."""

from __future__ import annotations

import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import make_parts
from trainers.optim import make_optimizer, set_lr, shown_lr
from trainers.spec import OptimSpec


def rates(spec: OptimSpec, **config) -> tuple[dict[tuple[str, str], float], torch.optim.Optimizer]:
    """Learning rate by (layer, parameter), and the optimizer."""
    handle = inject(make_parts(), AdapterConfig(rank=2, **config))
    optimizer = make_optimizer(spec, handle)
    lr_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {
        (str(key), name): lr_of.get(id(p), 0.0)
        for key, adapter in handle.adapters()
        for name, p in adapter.named_parameters()
    }
    return named, optimizer


def test_without_settings_there_is_one_group_a_part_in_model_order():
    handle = inject(make_parts(), AdapterConfig(rank=2))
    groups = make_optimizer(OptimSpec(lr_unet=1e-3, lr_text=1e-4), handle).param_groups
    assert [(g["part"], g["lr"]) for g in groups] == [("unet", 1e-3), ("text_encoder", 1e-4)]
    for group in groups:
        wanted = [id(p) for p in handle.parameters(group["part"])]
        assert [id(p) for p in group["params"]] == wanted


def test_lora_plus_gives_b_its_ratio():
    named, optimizer = rates(OptimSpec(lr_unet=1e-3, lr_text=1e-4, lora_plus_ratio=16))
    for (key, name), lr in named.items():
        own = 1e-3 if key.startswith("unet.") else 1e-4
        assert lr == pytest.approx(own * (16 if name == "up" else 1))
    set_lr(optimizer, 0.5)
    assert shown_lr(optimizer) == pytest.approx(5e-4)
    assert sorted(g["lr"] for g in optimizer.param_groups) == pytest.approx(
        [5e-5, 5e-4, 8e-4, 8e-3]
    )


def test_rates_by_layer_the_last_match_wins_and_zero_trains_none():
    patterns = {"*.attn2.*": 0.5, "*.attn2.to_k": 3.0, "text_encoder.*": 0.0}
    named, optimizer = rates(OptimSpec(lr_unet=1e-3, lr_patterns=patterns, lora_plus_ratio=2))
    for (key, name), lr in named.items():
        factor = 0.0 if key.startswith("text_encoder.") else 1.0
        if ".attn2." in key:
            factor = 3.0 if key.endswith("to_k") else 0.5
        assert lr == pytest.approx(1e-3 * factor * (2 if name == "up" else 1))
    assert shown_lr(optimizer) == 1e-3  # what is shown is the UNet's own rate
    trained = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert len(trained) == sum(lr > 0 for lr in named.values())


def test_doras_magnitude_has_the_rate_of_a_and_no_decay():
    handle = inject(make_parts(), AdapterConfig(kind="dora", rank=2))
    spec = OptimSpec(lora_plus_ratio=16, weight_decay=0.3)
    optimizer = make_optimizer(spec, handle)
    of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    for key, adapter in handle.adapters():
        own = spec.lr_unet if key.part == "unet" else spec.lr_text
        magnitude = of[id(adapter.magnitude)]
        assert (magnitude["lr"], magnitude["weight_decay"]) == (own, 0.0)
        assert of[id(adapter.down)]["weight_decay"] == 0.3


def test_patterns_that_match_nothing_and_nothing_to_train_are_errors():
    with pytest.raises(InputError, match=r"optim\.lr_patterns.*attn9"):
        rates(OptimSpec(lr_patterns={"*.attn9.*": 2.0}))
    with pytest.raises(InputError, match="nothing is trained"):
        rates(OptimSpec(lr_patterns={"*": 0.0}))
