"""A base's parts by their configurations alone: what memory it will take is told from these.

No torch, and no network: a model on the hub is known once it was downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families import detect, hub, ldm_configs
from lora_diffusion.families.layout import PICKLE_ENDINGS
from lora_diffusion.families.locate import locate
from lora_diffusion.formats.header import Header, read_header
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET

VAE = "vae"
_PARTS = {
    "sd15": (UNET, VAE, TEXT_ENCODER),
    "sd21": (UNET, VAE, TEXT_ENCODER),
    "sdxl": (UNET, VAE, TEXT_ENCODER, TEXT_ENCODER_2),
}
_USUAL_SAMPLE_SIZE = {"sd15": 64, "sd21": 64, "sdxl": 128}


@dataclass(frozen=True)
class Outline:
    """What a base is made of.

    Attributes:
        arch: `sd15`, `sd21` or `sdxl`.
        configs: part (`unet`, `vae`, `text_encoder`, …) -> its `config.json`.
    """

    arch: str
    configs: Mapping[str, Mapping[str, Any]]

    @property
    def latent_factor(self) -> int:
        """Pixels per latent, along one side."""
        halvings: int = len(self.configs[VAE]["block_out_channels"]) - 1
        return 1 << halvings

    @property
    def size_step_px(self) -> int:
        """Sides of pictures that the UNet halves evenly are multiples of it."""
        halvings = len(self.configs[UNET]["block_out_channels"]) - 1
        return self.latent_factor << halvings

    @property
    def native_size_px(self) -> int:
        """The side it was trained to draw."""
        size = self.configs[UNET].get("sample_size")
        latents = size if isinstance(size, int) and size > 0 else _USUAL_SAMPLE_SIZE[self.arch]
        return latents * self.latent_factor


def outline(location: str, arch: str = "auto") -> Outline:
    """The parts of the base at `location`.

    Args:
        arch: what it is, for one that can't be looked into: taken at its published size.

    Raises:
        InputError: there is none, it is broken, or it can't be looked into and `arch` is auto.
    """
    source = locate(location)
    path = hub.cached_folder(source) if isinstance(source, str) else source
    if path is not None and path.is_dir():
        return _of_folder(path)
    if path is not None and path.suffix.lower() not in PICKLE_ENDINGS:
        return _of_checkpoint(read_header(path), path)
    if arch == "auto":
        raise InputError(
            f"{printable(location)}: what it is made of is known once it was opened. Set "
            "model.arch to have it taken at its published size."
        )
    return Outline(arch, {part: ldm_configs.shipped(arch, part) for part in _PARTS[arch]})


def _of_folder(path: Path) -> Outline:
    arch = _known(detect.folder(path), path)
    return Outline(
        arch, {part: detect.read_json(path / part / "config.json") for part in _PARTS[arch]}
    )


def _of_checkpoint(header: Header, path: Path) -> Outline:
    arch = _known(detect.checkpoint(header, path.with_suffix(".yaml")), path)
    shapes, where = header.shapes(), printable(path.name)
    configs = {
        UNET: ldm_configs.unet_config(shapes, arch, where),
        VAE: ldm_configs.vae_config(shapes, arch, where),
    }
    for part, (prefix, is_open_clip) in ldm_configs.TEXTS[arch].items():
        configs[part] = (
            ldm_configs.open_clip_config(shapes, prefix, arch, part, where)
            if is_open_clip
            else ldm_configs.clip_config(shapes, prefix, arch, where)
        )
    return Outline(arch, configs)


def _known(found: detect.Found, path: Path) -> str:
    if found.arch not in _PARTS:
        raise InputError(f"{printable(path.name)}: is {found.describe()}, which can't be trained.")
    return found.arch
