"""Overlaps of subspaces, against the paper's formula written out and against known cases."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lora_diffusion.analyse.subspace import meet, orthonormal_rows, similarity
from lora_diffusion.analyse.svd import Directions, directions
from lora_diffusion.factors import FullFactors


def drawn(*shape: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=source, dtype=torch.float64)


def update(values: list[float], left: Tensor, right: Tensor) -> Directions:
    return directions(FullFactors(diff=left.T @ torch.tensor(values).double().diag() @ right))


def test_phi_is_the_papers_at_every_i_and_j():
    first, second = orthonormal_rows(drawn(4, 20)), orthonormal_rows(drawn(6, 20, seed=1))
    phi = similarity(first, second)
    assert phi.shape == (4, 6)
    for i in range(1, 5):
        for j in range(1, 7):
            product = first[:i] @ second[:j].T  # U_A^i^T U_B^j
            assert phi[i - 1, j - 1] == pytest.approx(float(product.norm() ** 2) / min(i, j))


def test_phi_of_random_subspaces_is_their_size_over_the_dimensions():
    found = [
        similarity(
            orthonormal_rows(drawn(5, 200, seed=seed)),
            orthonormal_rows(drawn(20, 200, seed=1000 + seed)),
        )[4, 19]
        for seed in range(30)
    ]
    assert sum(found) / 30 == pytest.approx(20 / 200, abs=0.02)


def test_an_adapter_meets_itself_whole_and_its_opposite_with_the_cosine_turned():
    eye = torch.eye(30, dtype=torch.float64)
    same = update([2.0, 2.0, 2.0], eye[:3], eye[10:13])
    met = meet(same, same)
    assert (met.reads, met.writes, met.overlap, met.cosine) == pytest.approx((1, 1, 1, 1))
    assert met.chance == pytest.approx(3 / 30)
    opposite = update([2.0, 2.0, 2.0], -eye[:3], eye[10:13])
    assert meet(same, opposite).cosine == pytest.approx(-1)


def test_updates_that_read_the_same_but_write_elsewhere_do_not_overlap():
    eye = torch.eye(30, dtype=torch.float64)
    one = update([2.0, 1.0], eye[:2], eye[10:12])
    two = update([3.0, 1.0], eye[2:4], eye[10:12])
    met = meet(one, two)
    assert met.reads == pytest.approx(1)
    assert met.writes == pytest.approx(0, abs=1e-9)
    assert met.overlap == pytest.approx(0, abs=1e-6)


def test_overlap_weighs_directions_by_their_strength():
    eye = torch.eye(30, dtype=torch.float64)
    one = update([10.0, 1.0], eye[:2], eye[:2])
    weak = update([1.0], eye[1:2], eye[1:2])  # shares one's weak direction only
    strong = update([1.0], eye[:1], eye[:1])
    assert meet(one, weak).overlap == pytest.approx((1 / 101) ** 0.5)
    assert meet(one, strong).overlap == pytest.approx((100 / 101) ** 0.5)


def test_an_update_of_zeros_meets_nothing():
    eye = torch.eye(30, dtype=torch.float64)
    nothing = directions(FullFactors(diff=torch.zeros(30, 30)))
    assert meet(nothing, update([1.0], eye[:1], eye[:1])).overlap == 0
