"""Finding the adapter that a prompt names."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from lora_diffusion.composition.folder import find_adapter
from lora_diffusion.errors import InputError


def test_a_file_s_name_comes_before_what_its_metadata_call_it(tmp_path):
    def write(name: str, alias: str) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_file({"x": torch.zeros(1)}, tmp_path / name, metadata={"ss_output_name": alias})

    write("ink.v1.safetensors", "fox")
    write("deep/fox.safetensors", "other")
    write("deep/last.safetensors", "Old Name")
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    assert find_adapter(tmp_path, "ink.v1").name == "ink.v1.safetensors"
    assert find_adapter(tmp_path, "fox").parent.name == "deep"
    assert find_adapter(tmp_path, "Old Name").name == "last.safetensors"
    with pytest.raises(InputError, match="'cat'"):
        find_adapter(tmp_path, "cat")
    write("fox.safetensors", "other")
    with pytest.raises(InputError, match=r"deep/fox\.safetensors.*fox\.safetensors"):
        find_adapter(tmp_path, "fox")
