"""Layers read one at a time are those that are read all at once."""

from __future__ import annotations

import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.formats import load_adapter, save_adapter
from lora_diffusion.formats.lazy import open_lazily
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import fill
from tests.lora_diffusion.composition.conftest import write_four


def test_every_kind_and_dialect(parts, tmp_path):
    paths = write_four(parts, tmp_path)
    save_adapter(load_adapter(paths[0]), tmp_path / "peft", format="peft")
    for path in [*paths, tmp_path / "peft"]:
        whole, lazy = load_adapter(path), open_lazily(path)
        assert (lazy.arch, lazy.metadata) == (whole.arch, whole.metadata)
        assert list(lazy.layers) == list(whole.layers)
        for key, factors in whole.layers.items():
            found = lazy.layers[key]
            assert (type(found), found.alpha) == (type(factors), factors.alpha)
            for name, tensor in factors.tensors().items():
                assert torch.equal(found.tensors()[name], tensor)


def test_a_layer_s_nan_is_told_when_it_is_read(parts, tmp_path):
    handle = inject(parts, AdapterConfig(rank=2))
    fill(handle)
    path = tmp_path / "a.safetensors"
    handle.save(path)
    data = bytearray(path.read_bytes())
    data[-2:] = b"\xff\x7f"
    path.write_bytes(data)
    lazy = open_lazily(path)
    with pytest.raises(InputError, match=r"a\.safetensors.*NaN"):
        list(lazy.layers.values())
    path.unlink()
    with pytest.raises(InputError, match=r"a\.safetensors.*cannot be read"):
        next(iter(lazy.layers.values()))
