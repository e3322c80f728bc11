"""Ways to combine updates, against small examples worked out by hand and their papers' rules."""

from __future__ import annotations

import numpy as np
import torch

from lora_diffusion.composition import methods

A = torch.tensor([[4.0, -3.0, 0.1, 2.0]])
B = torch.tensor([[1.0, 5.0, -0.2, 4.0]])


def test_trimming_keeps_the_largest():
    assert methods.trimmed(A, 0.5).tolist() == [[4.0, -3.0, 0.0, 0.0]]
    assert methods.trimmed(A, 1.0) is A
    assert methods.trimmed(A, 0.01).tolist() == [[4.0, 0.0, 0.0, 0.0]]


def test_ties():
    # of A 4 and -3 are kept, of B 5 and 4; where signs differ, the stronger one stays alone
    assert methods.ties([A, B], 0.5).tolist() == [[4.0, 5.0, 0.0, 4.0]]
    # untrimmed: the mean of those that agree
    assert methods.ties([A, B], 1.0).flatten().tolist() == [2.5, 5.0, np.float32(-0.2), 3.0]
    torch.testing.assert_close(methods.ties([A, A, -0.5 * A], 1.0), A)
    assert methods.ties([A, -A], 1.0).tolist() == [[0.0] * 4]


def test_dare_keeps_the_mean_and_its_masks():
    ones = torch.ones(200, 200)
    found = methods.dare([ones, 3 * ones], 0.25, ["a", "b"], seed=1)
    assert set(found.unique().tolist()) == {0.0, 4.0, 12.0, 16.0}
    assert abs(float(found.mean()) - 4) < 0.1
    assert torch.equal(found, methods.dare([3 * ones, ones], 0.25, ["b", "a"], seed=1))
    assert not torch.equal(found, methods.dare([ones, 3 * ones], 0.25, ["a", "b"], seed=2))


def test_pruning_sums_what_is_large():
    assert methods.pruned([A, B], 0.5).tolist() == [[4.0, 2.0, 0.0, 4.0]]


def test_orthogonal_parts_keep_their_norms_and_what_is_common_counts_once():
    source = torch.Generator().manual_seed(1)
    updates = [torch.randn(6, 5, generator=source) * n for n in (1, 2, 3)]
    updates[1] = updates[1] + updates[0]
    shares = methods.orthogonal_factors(updates)
    total = sum(c * u for c, u in zip(shares, updates, strict=True))
    # orthogonal parts: the squares of their norms add up
    norms = np.array([float(u.norm()) for u in updates])
    assert float(total.norm()) == np.float32(np.sqrt((norms**2).sum())) or np.isclose(
        float(total.norm()), np.sqrt((norms**2).sum()), rtol=1e-5
    )
    plain = [torch.eye(4), torch.eye(4).flip(0)]
    np.testing.assert_allclose(methods.orthogonal_factors(plain), [1, 1], atol=1e-9)
    # twice the same direction is one direction, of the norm of both
    twice = methods.orthogonal_factors([A, A])
    np.testing.assert_allclose(twice, [2**-0.5] * 2, rtol=1e-5)
    assert methods.orthogonal_factors([A, torch.zeros_like(A)])[0] > 0.99
    order = methods.orthogonal_factors([updates[2], updates[0], updates[1]])
    np.testing.assert_allclose(order, [shares[2], shares[0], shares[1]], rtol=1e-9)
