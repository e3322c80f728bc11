"""Checkpoints: nothing lost to a damaged file, a full disk or a kill while saving."""

from __future__ import annotations

import errno
import io
import itertools
import os
import stat

import pytest
import torch
from safetensors import SafetensorError

from lora_diffusion import load
from lora_diffusion.errors import InputError
from lora_diffusion.formats import container, save_adapter
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import fill, make_parts
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
        optimizer=optimizer, average={}, memory={}, keep=keep,
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


def test_another_adapters_checkpoint_is_refused(tmp_path):
    point = checkpoint.read(save(tmp_path, *trained(), 1))
    handle, optimizer = trained(rank=4)
    with pytest.raises(InputError, match="other adapter settings"):
        checkpoint.restore(point, handle, optimizer, None)


class FailingDisk:
    """The file system, whose `number`-th operation for writing (from 1) fails, and no other."""

    def __init__(self, patch, number, code):
        self.left, self.code, self.failed = number, code, ""
        self.real_open, self.real_save = io.open, container.save_file
        self.real_replace, self.real_fsync = os.replace, os.fsync
        patch.setattr(io, "open", self.open)
        patch.setattr(os, "replace", self.replace)
        patch.setattr(os, "fsync", self.fsync)
        patch.setattr(container, "save_file", self.save_file)

    def count(self, operation):
        self.left -= 1
        if self.left == 0:
            self.failed = operation
            raise OSError(self.code, os.strerror(self.code))

    def replace(self, one, other):
        self.count("replace")
        self.real_replace(one, other)

    def fsync(self, number):
        self.count("fsync folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "fsync")
        self.real_fsync(number)

    def open(self, file, mode="r", *args, **kwargs):
        if mode in ("r", "rb"):
            return self.real_open(file, mode, *args, **kwargs)
        self.count("open")
        opened = self.real_open(file, mode, *args, **kwargs)
        return Writing(opened, self) if isinstance(opened, io.BufferedWriter) else opened

    def save_file(self, tensors, path, metadata):
        """As the library, which writes outside Python: half a file, and an error of its own."""
        try:
            self.count("save_file")
        except OSError as error:
            path.write_bytes(b"half")
            raise SafetensorError(
                f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
            ) from None
        self.real_save(tensors, path, metadata=metadata)


class Writing:
    """An open file whose writes count."""

    def __init__(self, file, disk):
        self.file, self.disk = file, disk

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.disk.count("write")
        return self.file.write(data)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_operation_leaves_the_checkpoint_before(tmp_path, code):
    handle, optimizer = trained()
    older = save(tmp_path, handle, optimizer, 1).read_bytes()
    for operation in fail_at_each(lambda: save(tmp_path, handle, optimizer, 2, keep=1), code):
        first, *more = checkpoint.files(tmp_path)
        assert first.read_bytes() == older
        assert checkpoint.newest(tmp_path).step == 1 + len(more)
        assert set(tmp_path.iterdir()) == {first, *more}
        assert len(more) == (operation == "fsync folder")
        for path in more:
            path.unlink()


def test_a_disk_that_fails_at_any_operation_leaves_the_adapter_before(tmp_path):
    handle, _ = trained()
    path = tmp_path / "mine.safetensors"

    def write():
        save_adapter(handle.to_file("sd15"), path, dtype="fp32")

    write()
    older = path.read_bytes()
    fill(handle)
    for operation in fail_at_each(write, errno.ENOSPC):
        assert list(tmp_path.iterdir()) == [path]
        assert (path.read_bytes() != older) == (operation == "fsync folder")
        load(path)
        path.write_bytes(older)


def fail_at_each(work, code):
    """Fail each operation of `work` in turn, and give its name; all must have been told."""
    seen = []
    for number in itertools.count(1):
        with pytest.MonkeyPatch.context() as patch:
            disk = FailingDisk(patch, number, code)
            try:
                work()
            except OSError as error:
                assert error.errno == code
                assert error.filename.endswith(".safetensors")
                seen.append(disk.failed)
            else:
                assert not disk.failed
                break
        yield seen[-1]
    assert set(seen) >= {"open", "fsync", "replace", "fsync folder"}
    assert {"write", "save_file"} & set(seen)
