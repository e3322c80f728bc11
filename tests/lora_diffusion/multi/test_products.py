"""One layer's updates for a mixed batch, against the sum of dense deltas of each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_diffusion.keys import UNET, LayerKey
from lora_diffusion.multi.products import Padded, Segments, Update, Use, padded, segments
from lora_diffusion.variants import Adapter, DoRA, KindName, variant

KEY = LayerKey(UNET, "a.layer")
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(12, 10),
    "conv": lambda: nn.Conv2d(6, 10, 3, stride=2, padding=1),
    "conv 1x1": lambda: nn.Conv2d(6, 10, 1),
}
WAYS = {"segments": segments, "padded": padded}
TOLERANCE = 2e-6  # fp32, values of order 1


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[request.param]()


def adapter(layer: nn.Module, rank: int, kind: KindName = "lora", alpha: float = 3.0) -> Adapter:
    made = variant(kind)(layer, KEY, rank, alpha)
    source = torch.Generator().manual_seed(rank)
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.3, generator=source)
    return made.eval()


def rows_of(layer: nn.Module, count: int) -> Tensor:
    shape = (count, 5, 12) if isinstance(layer, nn.Linear) else (count, 6, 8, 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def apply(layer: nn.Module, x: Tensor, updates: Sequence[Update]) -> Tensor:
    y = layer(x)
    for update in updates:
        y = update.add_to(y, x, layer.weight)
    return y


def expected(layer: nn.Module, x: Tensor, uses: Sequence[Use], count: int) -> Tensor:
    """Each row through its sample's own dense weight."""
    out = []
    for row in range(len(x)):
        weight = layer.weight.double()
        for sample, used, strength in uses:
            if sample == row % count:
                weight = weight + strength * used.delta(layer.weight).double()
        bias, one = layer.bias.double(), x[row : row + 1].double()
        if isinstance(layer, nn.Conv2d):
            out.append(F.conv2d(one, weight, bias, layer.stride, layer.padding))
        else:
            out.append(F.linear(one, weight, bias))
    return torch.cat(out).float()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("turns", [1, 2])
def test_every_kind_in_one_batch(layer, way, turns):
    kinds: list[tuple[int, KindName]] = [(3, "lora"), (2, "dora"), (2, "loha"), (2, "lokr")]
    made = [adapter(layer, rank, kind) for rank, kind in kinds]
    wide = adapter(layer, 9, "rslora")
    uses = [
        (0, made[0], 1.0),
        (1, made[1], -0.5),
        (2, made[2], 0.7),
        (3, made[3], 2.0),
        (4, made[0], 0.4),
        (4, made[3], -1.5),
        (5, wide, 0.8),
        (5, made[0], 1.0),
    ]
    count = 7  # the last sample has none
    x = rows_of(layer, turns * count)
    with torch.no_grad():
        found = apply(layer, x, WAYS[way](uses, count))
        torch.testing.assert_close(
            found, expected(layer, x, uses, count), rtol=1e-5, atol=TOLERANCE * 10
        )
        alone = layer(x)
    assert torch.equal(found[6::7], alone[6::7])
    assert (found[:6] - alone[:6]).abs().amax(dim=tuple(range(1, x.dim()))).min() > 0.01


def test_a_time_embedding_has_no_tokens():
    layer = nn.Linear(12, 10)
    x = torch.randn(4, 12)
    uses = [(0, adapter(layer, 2), 1.0), (1, adapter(layer, 5), 0.5)]
    with torch.no_grad():
        for way in WAYS.values():
            found = apply(layer, x, way(uses, 2))
            torch.testing.assert_close(found, expected(layer, x, uses, 2), rtol=1e-5, atol=1e-5)


def test_samples_are_padded_with_their_like_and_in_few_products(layer):
    small, large = [adapter(layer, rank) for rank in (3, 4)], adapter(layer, 20)
    others = adapter(layer, 2, "dora")
    assert isinstance(others, DoRA)
    uses = [(0, small[0], 1.0), (1, small[1], 0.5), (2, large, 1.0), (3, others, 1.0)]
    updates = padded(uses, 4)
    low_rank = [u for u in updates if isinstance(u, Padded)]
    inputs = layer.weight[0].numel()
    assert [u.nbytes for u in low_rank] == [4 * 2 * 4 * (inputs + 10), 4 * 20 * (inputs + 10)]
    [rest] = [u for u in updates if isinstance(u, Segments)]
    assert [part[0] for part in rest.parts] == [others]
    assert segments([], 3) == padded([], 3) == []


def test_samples_of_one_adapter_are_one_segment(layer):
    used = adapter(layer, 2)
    [both] = segments([(0, used, 1.0), (2, used, 1.0), (1, used, 0.5)], 3)
    assert isinstance(both, Segments)
    assert [(rows.samples, strength) for _, rows, strength in both.parts] == [
        ((0, 2), 1.0),
        ((1,), 0.5),
    ]


@pytest.mark.parametrize("way", WAYS)
def test_gradients_reach_each_samples_own_factors(layer, way):
    one, other = adapter(layer, 2), adapter(layer, 3)
    layer.requires_grad_(False)
    x = rows_of(layer, 2)
    apply(layer, x, WAYS[way]([(0, one, 1.0), (1, other, 0.5)], 2)).square().sum().backward()
    found = [p.grad for a in (one, other) for p in a.parameters()]
    for parameter in (*one.parameters(), *other.parameters()):
        parameter.grad = None
    for row, (used, strength) in enumerate(((one, 1.0), (other, 0.5))):
        alone = x[row : row + 1]
        (layer(alone) + used(alone, layer.weight, strength)).square().sum().backward()
    wanted = [p.grad for a in (one, other) for p in a.parameters()]
    for have, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)


def test_half_precision_bases_get_their_own_dtype_back():
    layer = nn.Linear(12, 10, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(4, 5, 12).to(torch.bfloat16)
    for way in WAYS.values():
        with torch.no_grad():
            assert apply(layer, x, way([(0, adapter(layer, 2), 1.0)], 2)).dtype == torch.bfloat16
