"""The intrinsic dimension's projection and its reading; the tables of docs/analysis.md."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import intrinsic_dimension, understanding
from benchmarks.intrinsic_dimension import Fastfood, Trial, d90
from lora_diffusion.analyse.results import Amplified, Analysis, Subspaces


@pytest.mark.parametrize(("small", "large"), [(16, 100), (64, 1000), (64, 64)])
def test_down_is_the_transpose_of_up(small, large):
    projection = Fastfood(small, large, seed=0)
    matrix = torch.stack([projection.up(one) for one in torch.eye(small)], 1)  # [D, d]
    gradient = torch.randn(large, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(projection.down(gradient), matrix.T @ gradient)
    assert torch.linalg.matrix_rank(matrix) == small
    assert float(matrix.norm(dim=1).mean()) == pytest.approx(1, abs=0.2)


def test_a_block_is_h_g_pi_h_b():
    """Le et al., arXiv:1408.3060, section 3.1, with matrices written out."""
    scipy = pytest.importorskip("scipy.linalg")
    projection = Fastfood(8, 8, seed=1)
    hadamard = torch.tensor(scipy.hadamard(8), dtype=torch.float32)
    permutation = torch.eye(8)[projection._order[0]]
    whole = hadamard @ projection._gains[0].diag() @ permutation @ hadamard
    whole = whole @ projection._signs[0].diag() / 8
    theta = torch.arange(8.0)
    torch.testing.assert_close(projection.up(theta), whole @ theta)


def test_d90_lies_between_two_measured_d_along_their_logarithms():
    trials = [Trial(10, 1e-3, 0.1, 0), Trial(10, 4e-3, 0.3, 0), Trial(1000, 1e-3, 0.7, 0)]
    assert d90(trials, whole=0.5 / 0.9) == pytest.approx(100)  # best of rates, halfway
    assert d90(trials, whole=1.0) is None
    assert d90(trials, whole=0.2) == 10


def test_training_moves_all_weights_by_d_numbers(monkeypatch, tmp_path):
    monkeypatch.setattr(intrinsic_dimension, "TRAINED", 2)
    monkeypatch.setattr(intrinsic_dimension, "HELD_OUT", 1)
    monkeypatch.setattr(intrinsic_dimension, "BATCH", 1)
    file = intrinsic_dimension.measure(tmp_path, (16,), (1e-3,), 1)
    told = json.loads(file.read_text())
    assert {t["dimension"] for t in told["trials"]} == {16, told["all_weights"]}
    assert all(t["score"] != 0 for t in told["trials"])
    before = file.read_text()
    intrinsic_dimension.measure(tmp_path, (16,), (1e-3,), 1)
    assert file.read_text() == before  # what is there is not done again


def test_tables_are_put_into_the_marked_part(monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- figures: begin -->\nold\n<!-- figures: end -->\n\nafter\n")
    monkeypatch.setattr(understanding, "PAGE", page)
    path = "up_blocks.1.resnets.0.conv1"
    rows = [Amplified("rank8", "unet", path, 8, n, 9.0, 2.0, 5.0, 0.5, n / 2) for n in (2, 4, 9)]
    phi = tuple(tuple(0.5 for _ in range(64)) for _ in range(8))
    found = Analysis((), (), (Subspaces("rank8", "rank64", "A", 3, phi, phi),), tuple(rows))
    understanding.write_page(
        "figures",
        [understanding.subspace_table(found), understanding.amplification_table(found, "rank8")],
    )
    text = page.read_text()
    assert text.startswith("before") and text.rstrip().endswith("after") and "old" not in text
    assert "| rank8 with rank64 | A | 0.50 | 0.50 | 0.50 |" in text
    assert "| up.1 | 3 | 4.00 | 2.00 | 5.00 | 0.50 | 2.00 |" in text
