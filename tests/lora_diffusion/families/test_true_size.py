"""A model of SD1.5's true size, random weights: both layouts load and compute the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.make_random_sd15 import write_checkpoint, write_folder
from lora_diffusion.families import load_base, tokenizer
from lora_diffusion.injection import AdapterConfig, inject

pytestmark = [
    pytest.mark.big,
    pytest.mark.skipif(tokenizer.find_bpe_file() is None, reason="needs open_clip_torch"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folder_and_checkpoint_are_one_model(tmp_path: Path, dtype: torch.dtype) -> None:
    results = []
    for path in (write_folder(tmp_path / "m"), write_checkpoint(tmp_path / "m.safetensors")):
        base = load_base(path, dtype=dtype)
        handle = inject(base.parts, AdapterConfig(rank=4, targets="attn", text_targets="none"))
        assert sum(p.numel() for p in handle.parameters()) == 797_184
        latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            context = base.encode_prompts(["a photo of a cat"])
            output = base.predict(latents, torch.tensor([500]), context)
            picture = base.decode_latents(latents)
        for result in (context.context, output, picture):
            assert bool(result.isfinite().all())
            assert 0.05 < float(result.float().std()) < 20
        results.append((context.context, output, picture))
        del base, handle
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)
