"""Singular values and directions from factors, against the dense update's."""

from __future__ import annotations

import math

import pytest
import torch

from lora_diffusion.analyse.svd import directions, effective_rank
from lora_diffusion.factors import (
    DoRAFactors,
    Factors,
    FullFactors,
    LoHaFactors,
    LoKrFactors,
    LoRAFactors,
)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


BASE = drawn(24, 30)
FACTORS = {
    "lora": LoRAFactors(down=drawn(4, 30), up=drawn(24, 4), alpha=6.0),
    "lora above the smaller side": LoRAFactors(down=drawn(40, 30), up=drawn(24, 40), alpha=1.0),
    "convolution": LoRAFactors(down=drawn(4, 8, 3, 3), up=drawn(24, 4, 1, 1), alpha=2.0),
    "dora": DoRAFactors(drawn(4, 30), drawn(24, 4), 4.0, drawn(1, 30).abs(), "in"),
    "loha": LoHaFactors(drawn(24, 3), drawn(3, 30), drawn(24, 3), drawn(3, 30), alpha=2.0),
    "loha of a convolution": LoHaFactors(
        drawn(24, 2), drawn(2, 5, 3, 3), drawn(24, 2), drawn(2, 5, 3, 3), alpha=2.0
    ),
    "loha, dense": LoHaFactors(drawn(24, 9), drawn(9, 30), drawn(24, 9), drawn(9, 30), alpha=2.0),
    "lokr": LoKrFactors((drawn(4, 5),), (drawn(6, 2), drawn(2, 6)), alpha=3.0),
    "lokr of a convolution": LoKrFactors((drawn(4, 2),), (drawn(6, 4, 3, 3),), alpha=6.0),
    "full": FullFactors(diff=drawn(24, 30)),
}


@pytest.mark.parametrize("name", FACTORS)
def test_directions_make_the_update(name):
    factors: Factors = FACTORS[name]
    base = BASE if name == "dora" else None
    found = directions(factors, base)
    dense = factors.delta(base).double().flatten(1)
    again = found.left @ found.values.diag() @ found.right
    torch.testing.assert_close(again, dense, rtol=1e-5, atol=1e-5 * dense.abs().max().item())
    one = torch.eye(len(found.values), dtype=torch.float64)
    torch.testing.assert_close(found.left.T @ found.left, one)
    torch.testing.assert_close(found.right @ found.right.T, one)
    assert (found.values.diff() <= 0).all()
    assert found.norm == pytest.approx(float(dense.norm()), rel=1e-5)


@pytest.mark.parametrize("name", ["lora", "loha", "lokr", "convolution"])
def test_what_is_factored_is_never_made_dense(name, monkeypatch):
    monkeypatch.setattr(type(FACTORS[name]), "delta", lambda *_: pytest.fail("made it dense"))
    assert directions(FACTORS[name]).norm > 0


def test_dora_without_a_base_is_its_low_rank_part():
    dora = FACTORS["dora"]
    assert len(directions(dora).values) == dora.rank
    assert len(directions(dora, BASE).values) > dora.rank


def test_an_update_of_zeros_has_no_directions():
    nothing = LoRAFactors(down=drawn(4, 30), up=torch.zeros(24, 4), alpha=4.0)
    found = directions(nothing)
    assert len(found.values) == 0 and found.norm == 0
    assert effective_rank(found.values) == 0


def test_effective_rank_counts_equal_values_and_weighs_unequal_ones():
    assert effective_rank(torch.full((5,), 3.0)) == pytest.approx(5)
    assert effective_rank(torch.tensor([3.0, 0.0])) == pytest.approx(1)
    values = torch.tensor([3.0, 1.0])  # entropy of 3/4 and 1/4
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(values) == pytest.approx(math.exp(entropy))
