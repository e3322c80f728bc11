"""A base that draws, and four adapters for it of different kinds, ranks and dialects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_diffusion.families import DiffusionBase, load_base
from lora_diffusion.injection import AdapterConfig, inject
from tests.conftest import fill, make_parts

# name -> (settings, seed, spread of the factors, dialect)
KINDS: dict[str, tuple[dict[str, Any], int, float, str]] = {
    "lora": ({"rank": 4, "alpha": 2}, 11, 0.15, "diffusers"),
    "locon": ({"rank": 3, "targets": "all", "conv_rank": 2}, 12, 0.15, "kohya"),
    "dora": ({"kind": "dora", "rank": 5}, 13, 0.15, "kohya"),
    "loha": (
        {"kind": "loha", "rank": 2, "targets": "attn+ff", "text_targets": "none"},
        14,
        0.3,
        "lycoris",
    ),
}
WEIGHTS = (0.8, 0.5, -0.3, 0.4)


def write_four(parts: Any, folder: Path) -> list[Path]:
    """The four adapters, in the order of `KINDS`; `parts` is as it was afterwards."""
    paths = []
    for name, (settings, seed, spread, dialect) in KINDS.items():
        handle = inject(parts, AdapterConfig(**settings))
        start = {id(p): p.clone() for _, n, p in handle.named_parameters() if n == "magnitude"}
        fill(handle, seed, spread)
        for _, adapter in handle.adapters():  # DoRA's magnitudes stay near the norms
            for parameter in adapter.parameters():
                if id(parameter) in start:
                    parameter.data = start[id(parameter)] * (1 + parameter.data)
        path = folder / f"{name}.safetensors"
        handle.save(path, format=dialect, dtype="fp32")
        handle.remove()
        paths.append(path)
    return paths


@pytest.fixture(scope="session")
def shared_base() -> DiffusionBase:
    return load_base("bundled:demo_base")


@pytest.fixture
def base(shared_base: DiffusionBase) -> Iterator[DiffusionBase]:
    """The demo base, which the test leaves without adapters."""
    yield shared_base
    left = [path for path, _ in shared_base.unet.named_modules() if path.endswith(".base")]
    assert not left


@pytest.fixture(scope="session")
def four(shared_base: DiffusionBase, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """LoRA, LoCon, DoRA and LoHa for the demo base."""
    return write_four(shared_base.parts, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="session")
def tiny_four(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same for the tiny models."""
    return write_four(make_parts(), tmp_path_factory.mktemp("tiny_four"))
