"""Kinds of adapters: DoRA against PEFT and the paper's formula, the others against PEFT."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.tuners.lokr.layer import factorization
from torch import Tensor, nn

from lora_diffusion import algebra
from lora_diffusion.dropout import Dropout
from lora_diffusion.errors import InputError
from lora_diffusion.factors import LoKrFactors, LoRAFactors
from lora_diffusion.layers import AdaptedLayer
from lora_diffusion.shapes import split
from lora_diffusion.variants import Adapter, DoRA, LoRA, RsLoRA, from_factors, variant
from tests.lora_diffusion.test_layers import KEY, Holder, conv, conv_1x1, linear

RANK, ALPHA = 4, 6.0
KINDS = [("lora", "in"), ("rslora", "in"), ("dora", "in"), ("dora", "out"), ("loha", "in"),
         ("lokr", "in")]  # fmt: skip
LAYERS = pytest.mark.parametrize("make", [linear, conv, conv_1x1])


def filled(adapter: Adapter, seed: int = 0) -> Adapter:
    """Factors as after training, and a magnitude that has moved off the norm."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if name == "magnitude":
                parameter *= 0.5 + torch.rand(parameter.shape, generator=source)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.3)
    return adapter


def gradients(y: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().sum(), parameters))


def assert_all_close(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        one = one.reshape(other.shape)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


@LAYERS
def test_dora_per_output_has_pefts_outputs_and_gradients(make):
    torch.manual_seed(1)
    base, x = make()
    adapter = filled(DoRA(base, KEY, RANK, ALPHA, "out"))
    ours = AdaptedLayer(base)
    ours.add("a", adapter)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["layer"], use_dora=True)
    peft = get_peft_model(Holder(base), config)
    theirs = peft.base_model.model.layer
    magnitude = theirs.lora_magnitude_vector["default"].weight
    torch.testing.assert_close(
        DoRA(base, KEY, RANK, ALPHA, "out").magnitude.flatten(), magnitude.flatten()
    )
    a, b = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight
    with torch.no_grad():
        a.copy_(adapter.down)
        b.copy_(adapter.up)
        magnitude.copy_(adapter.magnitude.reshape(magnitude.shape))
    y, expected = ours(x), peft(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert_all_close(
        gradients(y, [adapter.down, adapter.up, adapter.magnitude, x]),
        gradients(expected, [a, b, magnitude, x]),
    )


def by_the_paper(base: nn.Module, adapter: DoRA, x: Tensor) -> Tensor:
    """eq. 5 with a dense W', the norm a constant (section 4.3): `vecnorm` written out."""
    product = (adapter.up.flatten(1) @ adapter.down.flatten(1)).reshape(base.weight.shape)
    directed = base.weight + ALPHA / RANK * product
    columns = directed if adapter.axis == "in" else directed.transpose(0, 1)
    norm = columns.transpose(0, 1).flatten(1).pow(2).sum(1).sqrt().detach()
    ratio = adapter.magnitude.flatten() / norm
    shape = [1] * directed.dim()
    shape[1 if adapter.axis == "in" else 0] = -1
    weight = directed * ratio.reshape(shape)
    if isinstance(base, nn.Conv2d):
        return F.conv2d(x, weight, base.bias, base.stride, base.padding)
    return F.linear(x, weight, base.bias)


@LAYERS
@pytest.mark.parametrize("axis", ["in", "out"])
def test_dora_is_the_papers_formula(make, axis):
    torch.manual_seed(2)
    base, x = make()
    adapter = filled(DoRA(base, KEY, RANK, ALPHA, axis))
    ours = AdaptedLayer(base)
    ours.add("a", adapter)
    y, expected = ours(x), by_the_paper(base, adapter, x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    wanted = [adapter.down, adapter.up, adapter.magnitude, x]
    assert_all_close(gradients(y, wanted), gradients(expected, wanted))


@pytest.mark.parametrize("axis", ["in", "out"])
@pytest.mark.parametrize("shape", [(700, 500), (90, 70, 3, 3), (3, 5, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_without_the_dense_weight(axis, shape, dtype):
    torch.manual_seed(5)
    weight = torch.randn(shape).to(dtype)
    down = torch.randn(4, *shape[1:])
    up = torch.randn(shape[0], 4, *(1 for _ in shape[2:]))
    dense = algebra.channel_norms(weight.float() + 0.7 * algebra.low_rank_product(down, up), axis)
    found = algebra.updated_norms(weight, down, up, 0.7, axis)
    torch.testing.assert_close(found, dense, rtol=2e-6, atol=0)
    kept = 1 if axis == "in" else 0
    over = [dim for dim in range(len(shape)) if dim != kept]
    own = torch.linalg.vector_norm(weight.double(), dim=over, keepdim=True).float()
    torch.testing.assert_close(algebra.channel_norms(weight, axis), own, rtol=1e-6, atol=0)
    start = algebra.updated_norms(weight, down, torch.zeros_like(up), 0.7, axis)
    assert torch.equal(start, algebra.channel_norms(weight, axis))


@pytest.mark.parametrize("name", ["down", "up", "magnitude"])
def test_dora_follows_every_change_of_its_numbers(name):
    """Also one that leaves no trace in the tensor's version, as some optimizers' do."""
    base, x = linear()
    adapter = filled(DoRA(base, KEY, RANK, ALPHA)).eval()
    with torch.no_grad():
        before = adapter(x, base.weight)
        assert torch.equal(adapter(x, base.weight), before)
        adapter.get_parameter(name).data.mul_(1.5)
        after = adapter(x, base.weight)
        assert not torch.allclose(after, before)
        torch.testing.assert_close(after, F.linear(x, adapter.delta(base.weight)))


@LAYERS
def test_rslora_has_pefts_outputs_and_a_folded_alpha(make):
    base, x = make()
    adapter = filled(RsLoRA(base, KEY, RANK, ALPHA))
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["layer"], use_rslora=True)
    ours = AdaptedLayer(base)
    ours.add("a", adapter)
    peft = get_peft_model(Holder(base), config)
    theirs = peft.base_model.model.layer
    with torch.no_grad():
        theirs.lora_A["default"].weight.copy_(adapter.down)
        theirs.lora_B["default"].weight.copy_(adapter.up)
    torch.testing.assert_close(ours(x), peft(x), rtol=1e-5, atol=1e-5)
    assert adapter.factors().alpha == ALPHA * math.sqrt(RANK)
    torch.testing.assert_close(
        adapter.factors().delta(), theirs.get_delta_weight("default"), rtol=1e-5, atol=1e-6
    )


def wide_conv() -> tuple[nn.Module, Tensor]:
    layer = nn.Conv2d(24, 32, 3, stride=2, padding=1, dilation=2)
    return layer, torch.randn(2, 24, 9, 9, requires_grad=True)


def wide_linear() -> tuple[nn.Module, Tensor]:
    return nn.Linear(48, 60), torch.randn(2, 5, 48, requires_grad=True)


@pytest.mark.parametrize("make", [linear, conv, conv_1x1, wide_conv, wide_linear])
@pytest.mark.parametrize("kind", ["loha", "lokr", "lokr, both factored"])
def test_loha_and_lokr_have_pefts_outputs_and_gradients(make, kind):
    torch.manual_seed(3)
    base, x = make()
    if kind == "loha":
        config = LoHaConfig(r=2, alpha=3.0, target_modules=["layer"])
    else:
        both = {"decompose_both": True} if "both" in kind else {}
        config = LoKrConfig(r=2, alpha=3.0, target_modules=["layer"], **both)
    prefix = "hada" if kind == "loha" else "lokr"
    peft = get_peft_model(Holder(base), config)
    theirs = {
        name.removeprefix("base_model.model.layer.").removesuffix(".default"): parameter
        for name, parameter in peft.named_parameters()
        if prefix in name
    }
    fresh = variant(kind[:4])(base, KEY, 2, 3.0)
    if "both" in kind:
        w1, w2 = ([t for name, t in theirs.items() if f"_{w}" in name] for w in ("w1", "w2"))
        told = LoKrFactors(tuple(w1), tuple(w2), 3.0).shaped(tuple(base.weight.shape))
        fresh = from_factors(base, KEY, told)
    adapter = filled(fresh)
    assert {f"{prefix}_{name}" for name, _ in adapter.named_parameters()} == set(theirs)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            theirs[f"{prefix}_{name}"].copy_(parameter.reshape(theirs[f"{prefix}_{name}"].shape))
    # Where nothing is factored, PEFT scales by alpha / r, and LyCORIS and all readers by 1.
    is_full = theirs.keys() == {"lokr_w1", "lokr_w2"}
    strength = 1.5 if is_full else 1.0
    y, expected = base(x) + adapter(x, base.weight, strength), peft(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    ours = dict(adapter.named_parameters())
    wanted = [theirs[f"{prefix}_{name}"] for name in ours]
    assert_all_close(gradients(y, [*ours.values(), x]), gradients(expected, [*wanted, x]))
    delta = peft.base_model.model.layer.get_delta_weight("default")
    torch.testing.assert_close(adapter.delta(base.weight) * strength, delta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [None, 2, 3, 4, 8, 16, 32])
def test_channels_are_split_as_lycoris_does(factor):
    for size in (*range(1, 70), 320, 640, 768, 1024, 1280, 2048, 2560, 5120, 10240):
        theirs = factorization(size, -1 if factor is None else factor)
        assert split(size, factor) == theirs, size


@LAYERS
@pytest.mark.parametrize(("kind", "axis"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_kind_starts_as_the_base_bit_for_bit(make, kind, axis, dtype):
    base, x = make()
    base, x = base.to(dtype), x.detach().to(dtype)
    layer = AdaptedLayer(base)
    adapter = variant(kind, axis)(base, KEY, RANK, ALPHA)
    adapter.reset("kaiming", 0, base.weight)
    layer.add("a", adapter)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert torch.equal(layer(x), base(x))
    if dtype == torch.bfloat16:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer(x), base(x))
    filled(adapter)
    assert layer(x).dtype == dtype
    assert not torch.equal(layer(x), base(x))


@LAYERS
@pytest.mark.parametrize(("kind", "axis"), KINDS)
def test_factors_say_what_the_adapter_does(make, kind, axis):
    base, x = make()
    adapter = filled(variant(kind, axis)(base, KEY, RANK, ALPHA))
    factors = adapter.factors()
    delta = factors.delta(base.weight)
    assert delta.shape == base.weight.shape == factors.weight_shape
    torch.testing.assert_close(delta, adapter.delta(base.weight))
    for strength in (1.0, 0.4, -1.0):
        changed = base.weight + strength * delta
        expected = (
            F.conv2d(x, changed, base.bias, base.stride, base.padding)
            if isinstance(base, nn.Conv2d)
            else F.linear(x, changed, base.bias)
        )
        got = base(x) + adapter(x, base.weight, strength)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    again = from_factors(base, KEY, factors)
    assert torch.equal(again(x, base.weight), adapter(x, base.weight))


def test_a_half_precision_dora_is_close_to_the_fp32_one():
    base, x = linear()
    wide = filled(DoRA(base, KEY, RANK, ALPHA))
    expected = base(x) + wide(x, base.weight)
    for dtype in (torch.bfloat16, torch.float16):
        half = nn.Linear(12, 20).to(dtype)
        half.load_state_dict(base.state_dict())
        layer = AdaptedLayer(half)
        layer.add("a", from_factors(half, KEY, wide.factors()))
        error = (layer(x.to(dtype)).float() - expected).norm() / expected.norm()
        assert error < 0.02


def test_doras_delta_needs_the_base():
    factors = filled(DoRA(nn.Linear(3, 5), KEY, 2, 1.0)).factors()
    assert factors.kind == "dora"
    assert tuple(factors.magnitude.shape) == (1, 3)
    with pytest.raises(InputError, match=r"DoRA.*base"):
        factors.delta()
    assert isinstance(from_factors(nn.Linear(3, 5), KEY, factors), DoRA)
    plain = LoRAFactors(factors.down, factors.up, 1.0)
    assert type(from_factors(nn.Linear(3, 5), KEY, plain)) is LoRA


@pytest.mark.parametrize("axis", ["in", "out"])
def test_a_channel_of_zeros_makes_no_nan(axis):
    base = nn.Linear(4, 4)
    with torch.no_grad():
        base.weight[2] = 0
        base.weight[:, 2] = 0
    x = torch.randn(3, 4, requires_grad=True)
    adapter = DoRA(base, KEY, 2, 2.0, axis)
    adapter.reset("kaiming", 0, base.weight)
    y = adapter(x, base.weight)
    assert torch.equal(y, torch.zeros_like(y))
    assert all(torch.isfinite(g).all() for g in gradients(y + 1, list(adapter.parameters())))
    assert torch.equal(adapter.delta(base.weight), torch.zeros(4, 4))


def test_module_dropout_drops_doras_magnitude_too():
    base, x = linear()
    adapter = filled(DoRA(base, KEY, RANK, ALPHA))
    adapter.dropout = Dropout(module=0.5)
    adapter.train()
    totals = []
    for step in range(40):
        adapter.clock.set(seed=0, step=step)
        totals.append(adapter(x, base.weight).abs().sum().item())
    whole = totals[0] or max(totals)
    assert set(totals) == {0.0, whole}
