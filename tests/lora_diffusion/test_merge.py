"""Merging bakes exactly what the adapters do; unmerging gives the base's bits back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.injection import AdapterConfig, inject
from lora_diffusion.keys import UNET
from lora_diffusion.layers import AdaptedLayer
from tests.conftest import fill

EVERYTHING = AdapterConfig(targets="all", text_targets="all", rank=4, alpha=2.0)
DORA = replace(EVERYTHING, kind="dora")
DORA_OUT = replace(DORA, dora_axis="out")
EACH_KIND = pytest.mark.parametrize("config", [EVERYTHING, DORA, DORA_OUT])


def base_bytes(parts) -> list[bytes]:
    return [
        module.base.weight.detach().float().numpy().tobytes()
        for model in parts.values()
        for module in model.modules()
        if isinstance(module, AdaptedLayer)
    ]


@EACH_KIND
@torch.no_grad()
def test_merged_equals_unmerged(parts, forward, config):
    handle = inject(parts, config)
    fill(handle)
    handle.scale = 0.8
    live = forward()
    handle.merge()
    assert handle.merged
    torch.testing.assert_close(forward(), live, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_unmerging_restores_the_exact_bits(parts, forward):
    handle = inject(parts, EVERYTHING)
    fill(handle)
    live, before = forward(), base_bytes(parts)
    for _ in range(3):
        handle.merge()
        assert base_bytes(parts) != before
        handle.unmerge()
    assert base_bytes(parts) == before
    assert torch.equal(forward(), live)
    assert all(m.original_weight is None for m in parts[UNET].modules() if hasattr(m, "merged"))


@torch.no_grad()
def test_several_merged_adapters_come_out_in_any_order(parts, forward):
    handles = [
        inject(parts, config, name=name)
        for name, config in (("a", EVERYTHING), ("b", DORA), ("c", DORA_OUT))
    ]
    for seed, handle in enumerate(handles):
        fill(handle, seed)
        handle.scale = 0.5 + seed / 4
    live, before = forward(), base_bytes(parts)
    for handle in handles:
        handle.merge()
    torch.testing.assert_close(forward(), live, rtol=1e-4, atol=1e-5)
    handles[1].unmerge()
    torch.testing.assert_close(forward(), live, rtol=1e-4, atol=1e-5)
    handles[0].unmerge()
    handles[2].unmerge()
    assert base_bytes(parts) == before


@torch.no_grad()
def test_a_new_scale_reaches_a_merged_adapter(parts, forward):
    handle = inject(parts, EVERYTHING)
    fill(handle)
    handle.scale = 0.3
    expected = forward()
    handle.scale = 1.0
    handle.merge()
    handle.scale = 0.3
    torch.testing.assert_close(forward(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_switching_a_merged_adapter_off_takes_it_out(parts, forward):
    plain = forward()
    handle = inject(parts, EVERYTHING)
    fill(handle)
    handle.merge()
    handle.enabled = False
    assert torch.equal(forward(), plain)


@torch.no_grad()
def test_a_merge_that_overflows_changes_nothing(parts):
    parts[UNET].to(torch.float16)
    handle = inject(parts, EVERYTHING)
    fill(handle, spread=300.0)
    before = base_bytes(parts)
    with pytest.raises(InputError, match="overflows"):
        handle.merge()
    assert base_bytes(parts) == before
    assert not handle.merged
