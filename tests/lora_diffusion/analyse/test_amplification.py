"""The amplification factor on weights whose answer is known."""

from __future__ import annotations

import pytest
import torch

from lora_diffusion.analyse.amplification import amplify
from lora_diffusion.analyse.svd import directions
from lora_diffusion.factors import FullFactors
from lora_diffusion.keys import UNET, LayerKey

KEY = LayerKey(UNET, "conv_in")


def test_it_is_the_update_over_what_the_base_has_in_its_directions():
    base = torch.diag(torch.tensor([9.0, 4.0, 1.0, 0.5]))
    update = torch.zeros(4, 4)
    update[2, 2] = 6.0  # amplifies what the base has least but one of
    found = amplify("ink", KEY, directions(FullFactors(diff=update)), base, rank=1)
    assert found.update_norm == pytest.approx(6)
    assert found.base_in_update == pytest.approx(1)
    assert found.base_in_own == pytest.approx(9)
    assert found.base_in_random < found.base_in_own
    assert found.factor == pytest.approx(6)


def test_the_rank_limits_the_directions_and_kernels_are_inputs():
    source = torch.Generator().manual_seed(0)
    base = torch.randn(8, 3, 3, 3, generator=source)
    update = directions(FullFactors(diff=torch.randn(8, 3, 3, 3, generator=source)))
    found = amplify("ink", KEY, update, base, rank=2)
    assert found.rank == 2
    left, right = update.left[:, :2], update.right[:2]
    held = (left.T @ base.double().flatten(1) @ right.T).norm()
    assert found.base_in_update == pytest.approx(float(held))
    assert found.update_norm == pytest.approx(float(update.values[:2].norm()))
