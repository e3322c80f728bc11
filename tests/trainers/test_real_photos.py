"""Ordinary photographs of mixed sizes train with a folder and a trigger word, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from lora_diffusion import load

PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg")


@pytest.fixture
def pictures(tmp_path):
    """Colour and grey, PNG and JPEG, one of them turned by its EXIF tag, none captioned."""
    folder = tmp_path / "my pictures"
    folder.mkdir()
    source = Path(skimage.data.__file__).parent
    for name in PHOTOS:
        with Image.open(source / name) as photo:
            photo.save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(source / "coffee.png") as photo:
        photo.convert("RGB").save(folder / "turned.JPG", exif=exif)
    sizes = {Image.open(p).size for p in folder.iterdir()}
    assert len(sizes) >= 4
    return folder


def test_a_folder_and_a_trigger_are_enough(pictures, tmp_path, train):
    folder = tmp_path / "out"
    done = train(
        "--output_dir", folder, "--data.folder", pictures, "--data.trigger", "sks",
        "--schedule.steps", 3, "--preview.sampling_steps", 2, "--model.threads", 1,
    )  # fmt: skip
    assert "6 pictures" in done.stderr
    adapter = load(folder / "out.safetensors")
    assert "a photo of sks" in adapter.metadata["ss_tag_frequency"]
    assert adapter.metadata["modelspec.trigger_phrase"] == "sks"
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.height > 300


def test_without_caption_or_trigger_the_fix_is_named(pictures, tmp_path, train):
    done = train("--output_dir", tmp_path / "out", "--data.folder", pictures, check=2)
    assert "astronaut.png" in done.stderr
    assert "data.trigger" in done.stderr
