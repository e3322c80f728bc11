"""How long a library's index takes: the first look, the next, a search.

    python -m benchmarks.library --adapters 1000

The adapters are small and made in a temporary folder, so this is what each file costs beside the
reading of its bytes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from trainers.library.index import Library

_LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
_RANK, _WIDTHS = 4, (320, 768)


def make(folder: Path, number: int) -> None:
    """One adapter of a layer, with kohya's metadata."""
    source = torch.Generator().manual_seed(number)
    outputs, inputs = _WIDTHS
    tensors = {
        f"{_LAYER}.lora_down.weight": torch.randn(_RANK, inputs, generator=source),
        f"{_LAYER}.lora_up.weight": torch.randn(outputs, _RANK, generator=source),
        f"{_LAYER}.alpha": torch.tensor(float(_RANK)),
    }
    tags = {f"tag {n}": n for n in range(1, 40)}
    told = {
        "ss_output_name": f"adapter {number}",
        "ss_base_model_version": "sd_v1",
        "ss_network_dim": str(_RANK),
        "ss_tag_frequency": json.dumps({f"10_word{number}": tags}),
    }
    save_file(tensors, folder / f"adapter-{number:05}.safetensors", metadata=told)


def main() -> None:
    """Measure, and print seconds of CPU and of the clock."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=1_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "adapters")
        folder.mkdir()
        for number in range(options.adapters):
            make(folder, number)
        library = Library(folder, Path(place, "index.sqlite"))
        tasks: dict[str, Callable[[], object]] = {
            "first look": library.update,
            "next look": library.update,
            "all cards": library.cards,
            "a search": lambda: library.cards(f"word{options.adapters // 2}"),
        }
        for name, task in tasks.items():
            cpu, clock = time.process_time(), time.monotonic()
            task()
            cpu, clock = time.process_time() - cpu, time.monotonic() - clock
            print(f"{name:<12} {cpu:8.3f} s of CPU, {clock:8.3f} s")


if __name__ == "__main__":
    main()
