"""Base models. `load_base` opens one, whatever it is and wherever it lies.

How a location becomes a base, file by file:

- `load` finds it (a path, or `hub`), `detect` says what it is, `request` carries what was asked.
- `folder` opens diffusers' layout, whose files `layout` knows; `single_file` opens a checkpoint
  with the help of `ldm_configs` (its sizes), `open_clip` (its text encoders' names) and `measure`
  (what it predicts); `legacy` and `unpickle` turn a pickled one into safetensors first.
- `weights` puts tensors into models, `tokenizer` finds CLIP's, `assemble` makes the base of them.
- `base` is what a base can do; `latent_unet` does what all share, `sd` and `sdxl` what differs,
  with `prompts` and `schedulers`.
"""

from lora_diffusion.families.base import (
    Conditioning,
    DiffusionBase,
    LatentDistribution,
    PictureSize,
)
from lora_diffusion.families.load import load_base

__all__ = ["Conditioning", "DiffusionBase", "LatentDistribution", "PictureSize", "load_base"]
