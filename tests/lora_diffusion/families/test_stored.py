"""Where each layer's weight lies on the disk: the same weights as a loaded base has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.families import load_base
from lora_diffusion.families.stored import open_stored
from lora_diffusion.formats.layer_names import is_layer
from lora_diffusion.injection import adaptable_shapes
from lora_diffusion.keys import live_modules
from tests.lora_diffusion.families import other_models, sd15_models

MAKERS = {
    "sd15": (sd15_models.make_models, sd15_models.save_folder, sd15_models.ldm_tensors),
    "sd21": (other_models.make_sd21, other_models.save_sd21, other_models.ldm_tensors),
    "sdxl": (other_models.make_sdxl, other_models.save_sdxl, other_models.ldm_tensors),
}


def write(arch: str, layout: str, root: Path) -> tuple[Path, Path]:
    """A tiny base in that layout, and a tokenizer for it."""
    make, save_folder, ldm_tensors = MAKERS[arch]
    models = make()
    folder = save_folder(models, root / "folder")
    if layout == "folder":
        return folder, folder / "tokenizer"
    path = sd15_models.save_checkpoint(ldm_tensors(models), root / "tiny.safetensors")
    return path, folder / "tokenizer"


@pytest.mark.parametrize("layout", ["folder", "file"])
@pytest.mark.parametrize("arch", MAKERS)
def test_weights_are_those_of_the_loaded_base(arch, layout, tmp_path):
    path, words = write(arch, layout, tmp_path)
    stored = open_stored(path)
    base = load_base(path, tokenizer=words)
    assert stored.arch == base.arch == arch
    modules = live_modules(base.parts)
    wanted = {key: shape for key, shape in adaptable_shapes(base.parts).items() if is_layer(key)}
    shapes = stored.shapes()
    assert {key: shapes.get(key) for key in wanted} == wanted
    for key in wanted:
        assert torch.equal(stored.weight(key), modules[key].weight), key
    # a checkpoint of SD2.x keeps one text layer more than it uses
    extra = {key.path.split(".")[3] for key in shapes.keys() - wanted.keys()}
    assert extra == ({"3"} if (arch, layout) == ("sd21", "file") else set())


def test_what_cannot_be_read_is_told(tmp_path):
    folder, _ = write("sd15", "folder", tmp_path)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="unet/diffusion_pytorch_model"):
        open_stored(folder)
    with pytest.raises(InputError, match="nowhere"):
        open_stored(tmp_path / "nowhere")
    models = sd15_models.make_models()
    quantised = sd15_models.ldm_tensors(models)
    key = next(iter(open_stored(write("sd15", "file", tmp_path / "b")[0]).places))
    name = open_stored(tmp_path / "b" / "tiny.safetensors").places[key].name
    quantised[name] = quantised[name].to(torch.int8)
    path = sd15_models.save_checkpoint(quantised, tmp_path / "int8.safetensors")
    with pytest.raises(InputError, match=r"int8\.safetensors.*quantised"):
        open_stored(path).weight(key)
