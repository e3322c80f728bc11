"""Adapters of every kind for the tiny models, as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.formats import save_adapter
from tests.lora_diffusion.multi.kinds import KINDS, make_file, make_full


@pytest.fixture(scope="session")
def files() -> dict[str, AdapterFile]:
    made = {name: make_file(config, seed) for seed, (name, config) in enumerate(KINDS.items())}
    return made | {"full": make_full(99)}


@pytest.fixture(scope="session")
def paths(
    files: dict[str, AdapterFile], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Every adapter as a file in fp32."""
    folder = tmp_path_factory.mktemp("adapters")
    for name, file in files.items():
        save_adapter(file, folder / f"{name}.safetensors", dtype="fp32")
    return {name: folder / f"{name}.safetensors" for name in files}
