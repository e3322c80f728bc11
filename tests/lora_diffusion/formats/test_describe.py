"""What `describe` says, and that it says the same as loading does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.errors import AdapterFileError
from lora_diffusion.formats import TrainingFacts, load_adapter, save_adapter
from lora_diffusion.formats.describe import describe
from lora_diffusion.formats.hash import EMPTY_SHA256

Write = Callable[..., Path]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_agrees_with_loading(tmp_path: Path, adapter: AdapterFile, dtype: str) -> None:
    path = tmp_path / "x.safetensors"
    save_adapter(adapter, path, dtype=dtype, facts=TrainingFacts(title="t", base="b"))
    found, loaded = describe(path), load_adapter(path)
    assert (found.format, found.kind, found.arch) == ("kohya", "locon", loaded.arch)
    assert found.modules == loaded.modules_by_part()
    assert Counter(found.ranks) == Counter(f.rank for f in loaded.layers.values())
    assert Counter(found.alphas) == Counter(f.alpha for f in loaded.layers.values())
    assert (found.rank, found.ranks[4]) == (4, 2)
    assert found.metadata == loaded.metadata
    assert found.summary.base == "b"
    assert found.problems == ()


def test_plain_lora_and_odd_alphas(tmp_path: Path, adapter: AdapterFile) -> None:
    plain = {key: replace(f, alpha=3.0) for key, f in adapter.layers.items() if not f.is_conv}
    path = tmp_path / "x.safetensors"
    save_adapter(AdapterFile("sd15", plain), path, dtype="bf16")
    found = describe(path)
    assert (found.kind, found.alpha, found.alphas) == ("lora", 3.0, {3.0: 2})


def resaved(path: Path, change: Callable[[dict[str, torch.Tensor]], None], **metadata: str) -> Path:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)
    return path


def test_problems_are_told(tmp_path: Path, adapter: AdapterFile) -> None:
    path = tmp_path / "x.safetensors"
    save_adapter(adapter, path)

    def drop_alphas(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if n.endswith("alpha")]:
            del tensors[name]

    resaved(path, drop_alphas, sshs_model_hash=EMPTY_SHA256, ss_base_model_version="sd_v2")
    alpha, arch, empty = describe(path).problems
    assert alpha.startswith("4 of 4 layers state no alpha")
    assert "empty buffer" in empty
    assert arch == "The metadata says sd21, the tensors say sd15."
    resaved(path, lambda tensors: None, sshs_model_hash="12" * 32)
    assert "not the hash of this file's tensors" in describe(path).problems[1]


@pytest.mark.parametrize(
    ("value", "cause"),
    [(0.0, "alpha"), (-1.0, "alpha"), (torch.nan, "alpha' holds NaN"), (1e30, "alpha")],
)
def test_refuses_what_loading_refuses(
    tmp_path: Path, adapter: AdapterFile, value: float, cause: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_adapter(adapter, path, dtype="fp32")

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[next(n for n in tensors if n.endswith("alpha"))] = torch.tensor(value)

    resaved(path, spoil)
    for read in (describe, load_adapter):
        with pytest.raises(AdapterFileError, match=cause):
            read(path)


def test_a_scan_finds_one_bad_number_in_a_long_tensor(tmp_path: Path) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    down = torch.zeros(1, 10_000_000)  # several chunks of the scan
    down[0, -1] = torch.inf
    path = tmp_path / "x.safetensors"
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": torch.ones(1, 1)}
    save_file(tensors, path)
    with pytest.raises(AdapterFileError, match=r"lora_down\.weight' holds NaN or inf"):
        describe(path)


@pytest.mark.parametrize(
    ("names", "format", "kind", "arch", "modules"),
    [
        (["lycoris_a.oft_blocks", "lycoris_a.alpha", "lycoris_b.oft_r"], "lycoris", "oft", None,
         {"unet": 2}),
        (["lora_unet_x.on_input", "lora_te_y.on_input"], "kohya", "ia3", None,
         {"unet": 1, "text_encoder": 1}),
        (["lora_te2_y.a1.weight", "lora_te2_y.alpha"], "kohya", "glora", "sdxl",
         {"text_encoder_2": 1}),
    ],
)  # fmt: skip
def test_unread_dialects_are_outlined(
    shaped_file: Write,
    names: list[str],
    format: str,
    kind: str,
    arch: str | None,
    modules: dict[str, int],
) -> None:
    found = describe(shaped_file({name: ("F32", [2, 2]) for name in names}))
    assert (found.format, found.kind, found.arch) == (format, kind, arch)
    assert found.modules == modules
    assert found.rank is None
    assert "Not readable here" in found.problems[0]


def test_a_checkpoint_is_no_adapter(shaped_file: Write) -> None:
    path = shaped_file({"model.diffusion_model.x.weight": ("F32", [2, 2])})
    with pytest.raises(AdapterFileError, match=r"full checkpoint.*base model"):
        describe(path)
