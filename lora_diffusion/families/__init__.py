"""Base models. `load_base` opens one, whatever it is and wherever it lies."""

from lora_diffusion.families.base import (
    Conditioning,
    DiffusionBase,
    LatentDistribution,
    PictureSize,
)
from lora_diffusion.families.load import load_base

__all__ = ["Conditioning", "DiffusionBase", "LatentDistribution", "PictureSize", "load_base"]
