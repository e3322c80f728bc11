"""Attention, 8-bit storage and compilation of the UNet: the same numbers, or one clear line."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_diffusion.errors import InputError
from lora_diffusion.injection import AdapterConfig, inject
from lora_diffusion.keys import UNET
from tests.conftest import fill, make_parts
from trainers.layering import build_spec
from trainers.machine.devices import Placement
from trainers.machine.unet_options import (
    compile_unet,
    configure,
    hold_in_fp8,
    recompute_activations,
    use_xformers,
)
from trainers.spec import ModelSpec

CPU = torch.device("cpu")
BF16 = Placement(CPU, "bf16")


def output_and_gradients(unet: nn.Module, *, change: Any = None, kind: Any = "lora"):
    """The adapted UNet's output on fixed input, and the adapter's gradients."""
    dtype = unet.dtype
    handle = inject({UNET: unet}, AdapterConfig(kind=kind, rank=2))
    fill(handle)
    if change:
        change(unet)
    source = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=source).to(dtype)
    context = torch.randn(2, 7, 32, generator=source).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        predicted = unet(latents, torch.tensor([3, 500]), encoder_hidden_states=context).sample
    predicted.float().square().mean().backward()
    return predicted.detach(), [p.grad for p in handle.parameters()]


def assert_alike(one, other, tolerance: float) -> None:
    flat = [torch.cat([t.flatten().float() for t in (x[0], *x[1])]) for x in (one, other)]
    assert float((flat[0] - flat[1]).norm() / flat[0].norm()) < tolerance


@pytest.fixture
def plain():
    return output_and_gradients(make_parts()[UNET])


def test_sliced_attention_gives_the_same_numbers(plain):
    unet = make_parts()[UNET]
    configure(unet, ModelSpec(attention="sliced"), Placement(CPU, "fp32"))
    names = {type(p).__name__ for p in unet.attn_processors.values()}
    assert names == {"SlicedAttnProcessor"}
    assert_alike(plain, output_and_gradients(unet), 1e-5)


def test_sdpa_is_left_as_it_is():
    unet = make_parts()[UNET]
    configure(unet, ModelSpec(), Placement(CPU, "fp32"))
    assert {type(p).__name__ for p in unet.attn_processors.values()} == {"AttnProcessor2_0"}


@pytest.fixture
def xformers(monkeypatch) -> list[tuple[Any, ...]]:
    """A stand-in for xformers that computes with torch and notes how it is called."""
    calls: list[tuple[Any, ...]] = []

    def attention(q: Tensor, k: Tensor, v: Tensor, attn_bias=None, op=None, scale=None) -> Tensor:
        assert k.shape == v.shape
        calls.append((tuple(q.shape), tuple(k.shape), q.is_contiguous(), attn_bias))
        return F.scaled_dot_product_attention(q, k, v, scale=scale)

    package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
    package.ops, ops.memory_efficient_attention = ops, attention
    from diffusers.models import attention_processor

    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr(attention_processor, "is_xformers_available", lambda: True)
    monkeypatch.setattr(attention_processor, "xformers", package)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    real = torch.randn

    def on_cpu(*shape, device=None, **options):  # diffusers tries a call on the GPU
        return real(*shape, **options)

    monkeypatch.setattr(torch, "randn", on_cpu)
    return calls


def test_xformers_is_called_as_it_documents_and_equals_sdpa(plain, xformers):
    unet = make_parts()[UNET]
    use_xformers(unet, torch.device("cuda"))
    xformers.clear()
    assert_alike(plain, output_and_gradients(unet), 1e-5)
    heads = 2 * 4  # batch times heads come first: [b * heads, tokens, head width]
    assert all(len(q) == 3 and q[0] == k[0] == heads for q, k, _, _ in xformers)
    assert all(contiguous and bias is None for _, _, contiguous, bias in xformers)
    assert {k[1] for q, k, _, _ in xformers if q[1] != k[1]} == {7}  # cross-attention to 7 tokens
    assert any(q == k for q, k, _, _ in xformers)


@pytest.mark.parametrize("reason", ["not installed", "built for another torch"])
def test_xformers_absent_or_unusable_is_one_line(monkeypatch, reason):
    class Unet:
        def enable_xformers_memory_efficient_attention(self) -> None:
            raise (ImportError if reason == "not installed" else RuntimeError)(f"{reason}\nlong")

    with pytest.raises(InputError) as caught:
        use_xformers(Unet(), torch.device("cuda"))
    message = str(caught.value)
    assert "\n" not in message
    for word in ("model.attention", reason, "[xformers]", "sdpa"):
        assert word in message
    with pytest.raises(InputError, match="NVIDIA"):
        use_xformers(make_parts()[UNET], CPU)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_8_bit_base_is_half_as_large_and_trains_close_to_bf16(kind):
    reference = make_parts()[UNET].to(torch.bfloat16)
    eight = make_parts()[UNET].to(torch.bfloat16)
    before = sum(p.numel() * p.element_size() for p in eight.parameters())
    hold_in_fp8(eight, BF16)
    assert sum(p.numel() * p.element_size() for p in eight.parameters()) < 0.6 * before
    names = dict(eight.named_modules())
    for name, layer in reference.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            off = (
                (names[name].weight - layer.weight)
                .abs()
                .amax(dim=tuple(range(1, layer.weight.dim())))
            )
            assert (off <= 0.04 * layer.weight.abs().flatten(1).amax(1)).all()  # 2^-4 of 448, half

    def recompute(unet: nn.Module) -> None:
        unet.train()
        recompute_activations([unet])

    small = output_and_gradients(eight, change=recompute, kind=kind)
    assert_alike(output_and_gradients(reference, kind=kind), small, 0.1)
    assert small[1][0].dtype == torch.float32


def test_with_checkpointing_few_widened_weights_wait_for_the_backward_pass():
    def waiting(recompute: bool) -> int:
        unet = make_parts()[UNET].to(torch.bfloat16).requires_grad_(False).train()
        hold_in_fp8(unet, BF16)
        if recompute:
            recompute_activations([unet])
        layers = [m for m in unet.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        widened = {layer.weight.shape for layer in layers}
        kept: list[torch.Size] = []

        def note(tensor: Tensor) -> Tensor:
            if tensor.shape in widened:
                kept.append(tensor.shape)
            return tensor

        latents = torch.ones(1, 4, 8, 8, dtype=torch.bfloat16, requires_grad=True)
        context = torch.ones(1, 7, 32, dtype=torch.bfloat16)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            unet(latents, torch.tensor([3]), encoder_hidden_states=context)
        return len(kept)

    every = waiting(False)
    assert every > 50
    assert waiting(True) < every / 4  # those of layers between the blocks


def test_8_bits_where_they_cannot_be_are_one_line(monkeypatch):
    with pytest.raises(InputError, match=r"model\.fp8_base .*model\.precision"):
        hold_in_fp8(make_parts()[UNET], Placement(CPU, "fp32"))

    def without(*_: object, **__: object) -> Tensor:
        raise TypeError("float8 is not for mps\nmore")

    monkeypatch.setattr(torch, "ones", without)
    with pytest.raises(InputError, match=r"model\.fp8_base can't be used on cpu \(float8 is not"):
        hold_in_fp8(make_parts()[UNET], BF16)


def test_a_compiled_unet_gives_the_same_numbers(plain):
    """Through the whole of torch.compile but its code generator, which takes minutes."""

    def change(unet: nn.Module) -> None:
        compile_unet(unet, CPU, backend="aot_eager")

    assert_alike(plain, output_and_gradients(make_parts()[UNET], change=change), 1e-5)


@pytest.mark.soak
def test_a_unet_compiled_to_machine_code_gives_the_same_numbers(plain):
    compiled = output_and_gradients(make_parts()[UNET], change=lambda u: compile_unet(u, CPU))
    assert_alike(plain, compiled, 1e-4)


def test_compiling_where_it_cannot_be_is_one_line(monkeypatch):
    def compile(*_: object, **__: object):
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler\nlong trace")

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(InputError) as caught:
        compile_unet(make_parts()[UNET], CPU)
    assert "\n" not in str(caught.value)
    assert "model.compile" in str(caught.value)
    with pytest.raises(InputError, match=r"model\.compile.*adapter\.rank_dropout"):
        build_spec([{"model": {"compile": True}, "adapter": {"rank_dropout": 0.1}}])
