"""Base models. `load_base` opens one, whatever it is and wherever it lies.

How a location becomes a base, file by file:

- `load` finds it (a path, or `hub`), `detect` says what it is, `request` carries what was asked.
- `folder` opens diffusers' layout, whose files `layout` knows; `single_file` opens a checkpoint
  with the help of `ldm_configs` (its sizes), `open_clip` (its text encoders' names) and `measure`
  (what it predicts); `legacy` and `unpickle` turn a pickled one into safetensors first.
- `weights` puts tensors into models, `tokenizer` finds CLIP's, `assemble` makes the base of them.
- `base` is what a base can do; `latent_unet` does what all share, `sd` and `sdxl` what differs,
  with `prompts` and `schedulers`.
- `locate` and `outline` say where a base lies and what it is made of, without loading it.

Names are imported on first use (PEP 562): `detect`, `locate` and `outline` of this package say
what a base is without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_diffusion.families.base import (
        Conditioning,
        DiffusionBase,
        LatentDistribution,
        PictureSize,
    )
    from lora_diffusion.families.load import load_base

_HOMES = {
    "Conditioning": "base",
    "DiffusionBase": "base",
    "LatentDistribution": "base",
    "PictureSize": "base",
    "load_base": "load",
}
__all__ = ["Conditioning", "DiffusionBase", "LatentDistribution", "PictureSize", "load_base"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lora_diffusion.families' has no attribute '{name}'")
    return getattr(import_module(f"lora_diffusion.families.{_HOMES[name]}"), name)
