"""What can't be composed is refused by name and reason, before memory is taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_diffusion import compose, load
from lora_diffusion.adapter import AdapterFile
from lora_diffusion.composition.sources import check
from lora_diffusion.errors import InputError
from lora_diffusion.injection import adaptable_shapes
from tests.conftest import state_bytes

STEM = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


def sparse(path: Path, shapes: dict[str, list[int]]) -> Path:
    """A file of fp16 tensors of those shapes, all holes: it takes no room on the disk."""
    header, position = {}, 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
    return path


def lora(rank: int, out: int, into: int) -> dict[str, list[int]]:
    return {f"{STEM}.lora_down.weight": [rank, into], f"{STEM}.lora_up.weight": [out, rank]}


@pytest.fixture(scope="module")
def bad(tmp_path_factory, tiny_four) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bad")
    many = {
        f"lora_unet_up_blocks_{i}_attentions_{j}_transformer_blocks_0_attn1_to_{leaf}.{what}": shape
        for i in (1, 2, 3)
        for j in (0, 1, 2)
        for leaf in "qkv"
        for what, shape in (("lora_down.weight", [64, 1280]), ("lora_up.weight", [1280, 64]))
    }
    files = {
        "rank": sparse(folder / "rank.safetensors", lora(1 << 22, 32, 32)),
        "shape": sparse(folder / "shape.safetensors", lora(4, 64, 64)),
        "product": sparse(folder / "product.safetensors", lora(1, 1 << 20, 1 << 20)),
        "base": sparse(folder / "base.safetensors", many),
    }
    tensors = load_file(tiny_four[0])
    last = max(tensors)
    tensors[last][0, 0] = float("nan")
    save_file(tensors, folder / "nan.safetensors")
    return {**files, "nan": folder / "nan.safetensors"}


CASES = [
    ("rank", "rank 4194304, which is absurd"),
    ("shape", "weight of shape [64, 64], and the base has [32, 32]"),
    ("product", "more than any layer"),
    ("base", "the base has no layers"),
    ("nan", "NaN"),
]


@pytest.mark.parametrize(("name", "reason"), CASES)
def test_bad_files_are_refused_and_nothing_changes(parts, tiny_four, bad, name, reason):
    before = {part: state_bytes(model) for part, model in parts.items()}
    with pytest.raises(InputError) as caught:
        compose(parts, [(tiny_four[0], 1.0), (bad[name], 1.0)])
    assert bad[name].name in str(caught.value)
    assert reason in str(caught.value)
    assert {part: state_bytes(model) for part, model in parts.items()} == before
    if name == "rank":  # without a base too
        with pytest.raises(InputError, match="absurd"):
            load(bad[name])


def test_refusing_takes_no_memory(bad, tmp_path):
    """In a process of its own: the most memory ever held, around the refusals."""
    huge = sparse(tmp_path / "nan_last.safetensors", lora(64, 1 << 20, 64))
    with huge.open("r+b") as file:  # 134 MB, all zeros but for a NaN at the end
        file.seek(-2, 2)
        file.write(b"\xff\x7f")
    paths = [str(bad[name]) for name, _ in CASES] + [str(huge)]
    code = (
        "import json, resource, sys, torch\n"
        "from lora_diffusion.composition.sources import check\n"
        "from lora_diffusion.keys import LayerKey\n"
        "key = LayerKey('unet', 'mid_block.attentions.0.transformer_blocks.0.attn1.to_q')\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    shape = (1 << 20, 64) if 'nan_last' in path else (32, 32)\n"
        "    try: check(path, {key: shape})\n"
        "    except ValueError as error:\n"
        "        assert path.split('/')[-1] in str(error), error\n"
        "        assert 'NaN' in str(error) or 'nan_last' not in path, error\n"
        "    else: raise SystemExit(path)\n"
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 64


def test_what_was_loaded_is_checked_too(parts, tiny_four):
    file = load(tiny_four[0])
    key, factors = next(iter(file.layers.items()))
    broken = torch.full_like(factors.up, float("inf"))
    layers = {**file.layers, key: type(factors)(factors.down, broken, factors.alpha)}
    with pytest.raises(InputError, match="NaN or infinite"):
        check(AdapterFile(file.arch, layers), adaptable_shapes(parts))
