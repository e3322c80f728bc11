"""Checkpoints: nothing lost to a damaged file, a full disk or a kill while saving."""

from __future__ import annotations

import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import make_parts
from trainers import checkpoint
from trainers.optim import make_optimizer
from trainers.spec import OptimSpec


def trained(steps: int = 2, rank: int = 2):
    """An adapter and its optimizer after some steps on made-up gradients."""
    handle = inject(make_parts(), AdapterConfig(rank=rank))
    optimizer = make_optimizer(OptimSpec(lr_unet=1e-2, lr_text=1e-3), handle)
    source = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for parameter in handle.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=source)
        optimizer.step()
    return handle, optimizer


def save(folder, handle, optimizer, step, keep=2):
    return checkpoint.save(
        folder, step=step, spec={"a": {"b": 1}}, dataset="d", scaler={}, handle=handle,
        optimizer=optimizer, average={}, keep=keep,
    )  # fmt: skip


def test_a_restored_run_takes_the_same_next_step(tmp_path):
    handle, optimizer = trained()
    point = checkpoint.read(save(tmp_path, handle, optimizer, 2))
    assert (point.step, point.spec, point.dataset) == (2, {"a": {"b": 1}}, "d")
    again = inject(make_parts(), AdapterConfig(rank=2, seed=9))
    other = make_optimizer(OptimSpec(lr_unet=1e-2, lr_text=1e-3), again)
    checkpoint.restore(point, again, other, None)
    for one, two in ((handle, optimizer), (again, other)):
        for index, parameter in enumerate(one.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * index)
        two.step()
    for mine, theirs in zip(handle.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_only_the_newest_are_kept(tmp_path):
    handle, optimizer = trained()
    for step in (1, 2, 10, 11):
        save(tmp_path, handle, optimizer, step)
    assert [checkpoint.read(p).step for p in checkpoint.files(tmp_path)] == [10, 11]
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in checkpoint.files(tmp_path)}


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "other"])
def test_a_damaged_newest_one_is_passed_over(tmp_path, damage):
    handle, optimizer = trained()
    save(tmp_path, handle, optimizer, 1)
    path = save(tmp_path, handle, optimizer, 2)
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "noise": bytes(range(256)) * 10,
            "other": (2).to_bytes(8, "little") + b"{}",
        }[damage]
    )
    with pytest.raises(InputError, match=path.name):
        checkpoint.read(path)
    assert checkpoint.newest(tmp_path).step == 1


def test_a_failed_save_leaves_the_older_ones_and_no_rest(tmp_path, monkeypatch):
    handle, optimizer = trained()
    save(tmp_path, handle, optimizer, 1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, handle, optimizer, 2, keep=1)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_another_adapters_checkpoint_is_refused(tmp_path):
    point = checkpoint.read(save(tmp_path, *trained(), 1))
    handle, optimizer = trained(rank=4)
    with pytest.raises(InputError, match="other adapter settings"):
        checkpoint.restore(point, handle, optimizer, None)
