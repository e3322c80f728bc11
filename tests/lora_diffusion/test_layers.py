"""Adapted layers against PEFT as an independent oracle, and their dropouts."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from lora_diffusion.dropout import Dropout
from lora_diffusion.errors import InputError
from lora_diffusion.keys import UNET, LayerKey
from lora_diffusion.layers import AdaptedLayer
from lora_diffusion.variants import LoRA

KEY = LayerKey(UNET, "layer")
SHAPES = [(1, 1.0), (4, 4.0), (4, 2.0), (8, 16.0), (16, 1.0)]


class Holder(nn.Module):
    """One layer, as PEFT wants it: inside a module."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


def linear() -> tuple[nn.Module, Tensor]:
    return nn.Linear(12, 20), torch.randn(2, 5, 12, requires_grad=True)


def conv() -> tuple[nn.Module, Tensor]:
    layer = nn.Conv2d(6, 10, 3, stride=2, padding=1)
    return layer, torch.randn(2, 6, 9, 9, requires_grad=True)


def conv_1x1() -> tuple[nn.Module, Tensor]:
    return nn.Conv2d(6, 10, 1), torch.randn(2, 6, 7, 7, requires_grad=True)


@pytest.mark.parametrize("make", [linear, conv, conv_1x1])
@pytest.mark.parametrize(("rank", "alpha"), SHAPES)
def test_outputs_and_gradients_equal_pefts(make, rank, alpha):
    torch.manual_seed(rank)
    base, x = make()
    ours = AdaptedLayer(base)
    adapter = LoRA(base, KEY, rank, alpha)
    ours.add("a", adapter)
    peft = get_peft_model(
        Holder(base), LoraConfig(r=rank, lora_alpha=alpha, target_modules=["layer"])
    )
    theirs = peft.base_model.model.layer
    with torch.no_grad():
        adapter.down.normal_()
        adapter.up.normal_()
        theirs.lora_A["default"].weight.copy_(adapter.down)
        theirs.lora_B["default"].weight.copy_(adapter.up)

    y = ours(x)
    y.square().sum().backward()
    grads = [adapter.down.grad, adapter.up.grad, x.grad.clone()]
    x.grad = None
    expected = peft(x)
    expected.square().sum().backward()
    wanted = [theirs.lora_A["default"].weight.grad, theirs.lora_B["default"].weight.grad, x.grad]

    torch.testing.assert_close(y, expected)
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


@pytest.mark.parametrize("make", [linear, conv])
@pytest.mark.parametrize("init", ["kaiming", "gaussian"])
def test_a_fresh_adapter_changes_no_bit(make, init):
    base, x = make()
    layer = AdaptedLayer(base)
    adapter = LoRA(base, KEY, 4, 8.0)
    adapter.reset(init, 3, base.weight)
    layer.add("a", adapter)
    assert torch.equal(layer(x), base(x))
    assert adapter.down.abs().max() > 0


def test_kaiming_start_has_the_spread_of_nn_linear():
    base = nn.Linear(400, 8)
    adapter = LoRA(base, KEY, 256, 1.0)
    adapter.reset("kaiming", 0, base.weight)
    bound = 1 / 400**0.5
    assert adapter.down.abs().max() <= bound
    assert adapter.down.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_the_start_depends_on_seed_and_layer_only():
    base = nn.Linear(8, 8)
    one, two, other = (LoRA(base, k, 4, 1.0) for k in (KEY, KEY, LayerKey(UNET, "other")))
    torch.manual_seed(1)
    one.reset("kaiming", 5, base.weight)
    torch.manual_seed(2)
    two.reset("kaiming", 5, base.weight)
    other.reset("kaiming", 5, base.weight)
    assert torch.equal(one.down, two.down)
    assert not torch.equal(one.down, other.down)
    two.reset("kaiming", 6, base.weight)
    assert not torch.equal(one.down, two.down)


def test_strengths_add_up_and_off_means_the_base():
    base, x = linear()
    layer = AdaptedLayer(base)
    for name in ("a", "b"):
        adapter = LoRA(base, KEY, 4, 2.0)
        nn.init.normal_(adapter.down)
        nn.init.normal_(adapter.up)
        layer.add(name, adapter)
    layer.strengths.update(a=0.5, b=-1.5)
    expected = (
        base(x)
        + 0.5 * layer.adapter("a")(x, base.weight)
        - 1.5 * layer.adapter("b")(x, base.weight)
    )
    torch.testing.assert_close(layer(x), expected)
    layer.disabled.update(("a", "b"))
    assert torch.equal(layer(x), base(x))


def test_a_half_precision_base_gives_half_precision_outputs():
    base = nn.Linear(12, 20).to(torch.bfloat16)
    layer = AdaptedLayer(base)
    adapter = LoRA(base, KEY, 4, 2.0)
    nn.init.normal_(adapter.up)
    nn.init.normal_(adapter.down)
    layer.add("a", adapter)
    x = torch.randn(2, 12, dtype=torch.bfloat16)
    assert adapter.down.dtype == torch.float32
    assert layer(x).dtype == torch.bfloat16
    assert not torch.equal(layer(x), base(x))


def test_grouped_convolutions_are_refused():
    with pytest.raises(InputError, match="grouped"):
        LoRA(nn.Conv2d(8, 8, 3, groups=2), KEY, 4, 1.0)


def dropped(dropout: Dropout, x: Tensor, step: int = 0) -> Tensor:
    """The update of an adapter with A, B = ones, under dropout at `step`."""
    base = nn.Linear(x.shape[-1], 3)
    adapter = LoRA(base, KEY, 64, 64.0)
    nn.init.ones_(adapter.down)
    nn.init.ones_(adapter.up)
    adapter.dropout = dropout
    adapter.clock.set(seed=0, step=step)
    adapter.train()
    y: Tensor = adapter(x, base.weight)
    return y


def test_dropouts_keep_the_mean_and_only_act_in_training():
    x = torch.ones(2, 4)
    plain = dropped(Dropout(), x)
    for dropout in (Dropout(rank=0.5), Dropout(neuron=0.5)):
        draws = torch.stack([dropped(dropout, x, step) for step in range(400)])
        assert draws.std() > 0
        torch.testing.assert_close(draws.mean(0), plain, rtol=0.05, atol=0)
    base = nn.Linear(4, 3)
    adapter = LoRA(base, KEY, 4, 4.0)
    adapter.dropout = Dropout(rank=0.9, module=0.9, neuron=0.9)
    nn.init.ones_(adapter.up)
    nn.init.ones_(adapter.down)
    adapter.eval()
    torch.testing.assert_close(adapter(x, base.weight), torch.full((2, 3), 16.0))


def test_module_dropout_drops_the_whole_update_at_its_rate():
    x = torch.ones(2, 4)
    draws = torch.stack([dropped(Dropout(module=0.25), x, step).abs().sum() for step in range(400)])
    assert (draws == 0).float().mean().item() == pytest.approx(0.25, abs=0.07)


def test_dropout_is_a_function_of_the_step_alone():
    x = torch.ones(2, 4)
    everything = Dropout(rank=0.3, module=0.3, neuron=0.3)
    torch.manual_seed(1)
    first = [dropped(everything, x, step) for step in range(6)]
    torch.manual_seed(9)
    again = [dropped(everything, x, step) for step in range(6)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(first[0], other) for other in first[1:])
