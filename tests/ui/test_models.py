"""Base models offered in the form."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from ui import models


def test_folders_and_checkpoints_are_offered_adapters_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_CHECKPOINT_BYTES", 100)
    (tmp_path / "sd/unet").mkdir(parents=True)
    (tmp_path / "sd/model_index.json").write_text("{}")
    (tmp_path / "sd/unet/weights.safetensors").write_bytes(b"x" * 200)
    (tmp_path / "anime.safetensors").write_bytes(b"x" * 200)
    (tmp_path / "old.ckpt").write_bytes(b"x" * 200)
    (tmp_path / "lora.safetensors").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    labels = [label for label, _ in models.offered(tmp_path)]
    assert labels[1:] == ["anime", "old", "sd"]
    assert models.offered(None) == models.offered(tmp_path / "missing")
    assert models.offered(None)[0][1] == models.DEMO_BASE


@pytest.mark.parametrize("location", ["", "/no/such", "./no", "~/no/such", "bundled:nope", "a/b/c"])
def test_a_base_that_is_not_there_is_refused(location: str) -> None:
    with pytest.raises(InputError):
        models.check_base(location)


def test_hub_ids_and_bundled_bases_are_taken(tmp_path: Path) -> None:
    for location in ("owner/name", models.DEMO_BASE, str(tmp_path)):
        models.check_base(location)
