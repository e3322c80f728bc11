"""Where an adapted layer sits: `LayerKey`, and live module path <-> canonical path.

This file is the one source of naming truth. A *live* path is what `named_modules()` says under
the library versions installed today. The *canonical* path is what adapter files have always
been built from, and what every codec in `formats/` starts from:

- UNet: diffusers' `UNet2DConditionModel` paths (`down_blocks.0.attentions.0.…`).
- CLIP text encoders: transformers 4 paths (`text_model.encoder.layers.0.…`). transformers 5
  dropped the `text_model` level from `CLIPTextModel`, though not from
  `CLIPTextModelWithProjection`; each LoRA file in the wild contains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

UNET = "unet"
TEXT_ENCODER = "text_encoder"
TEXT_ENCODER_2 = "text_encoder_2"
PARTS = (UNET, TEXT_ENCODER, TEXT_ENCODER_2)

_CLIP_LEVEL = "text_model"


@dataclass(frozen=True, order=True)
class LayerKey:
    """One adapted layer.

    Attributes:
        part: `unet`, `text_encoder` or `text_encoder_2`.
        path: canonical dotted path of the layer inside its part.
    """

    part: str
    path: str

    def __str__(self) -> str:
        return f"{self.part}.{self.path}"


def canonical_path(part: str, module: nn.Module, live_path: str) -> str:
    """The canonical path of the submodule that `module` calls `live_path`."""
    return _missing_level(part, module) + live_path


def live_path(key: LayerKey, module: nn.Module) -> str:
    """What `module` calls the layer `key` today; the inverse of `canonical_path`."""
    return key.path.removeprefix(_missing_level(key.part, module))


def live_modules(parts: Mapping[str, nn.Module]) -> dict[LayerKey, nn.Module]:
    """Every submodule of `parts` (part name -> model) under its canonical key, in model order."""
    return {
        LayerKey(part, canonical_path(part, model, path)): module
        for part, model in parts.items()
        for path, module in model.named_modules()
        if path
    }


def _missing_level(part: str, module: nn.Module) -> str:
    """The prefix that canonical paths have and live paths of `module` lack (often empty)."""
    if part == UNET or hasattr(module, _CLIP_LEVEL):
        return ""
    return _CLIP_LEVEL + "."
