"""Adapters that act in one part of the picture, so that two characters stand side by side.

A region has a mask `[h, w]` in the picture, a share in 0..1 of each pixel, and may have a prompt of
its own. Of an adapter in a region

- layers of the UNet that work pixel by pixel, or token by token of the picture, add their update
  times the mask, scaled down to the layer's size;
- keys and values of cross-attention, which know no place, are changed only where the region's own
  prompt is read: attention is done once for every region and once for the rest, and the outcomes
  are mixed by the masks (normalised where they overlap): O = (1 - sum m_i) O_rest + sum m_i O_i;
- a resnet's projection of the timestep adds its update to the masked part of the feature map;
- the text encoder's update acts while the region's prompt is encoded, and only then;
- the embeddings of timestep and size, which belong to the whole picture, stay as they are.

What is left to carry something from one region to another is the base's own self-attention, which
keeps the picture in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import Conditioning
from lora_diffusion.keys import UNET, LayerKey
from lora_diffusion.layers import Gate

_CONTEXT = re.compile(r".*\.attn2\.to_[kv]")
_OF_TIME = re.compile(r".*\.time_emb_proj")
_OF_WHOLE = re.compile(r"(time|add)_embedding\..*")


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the picture.

    Attributes:
        name: adapters of one name share the region.
        mask: `[h, w]` of any size, fp32 in 0..1, stretched over the picture.
        prompt: what is drawn there; None takes the picture's.
    """

    name: str
    mask: Tensor
    prompt: str | None = None

    def __post_init__(self) -> None:
        if self.mask.dim() != 2 or self.mask.numel() == 0:
            raise InputError(
                f"The mask of region '{printable(self.name, 60)}' has the shape "
                f"{list(self.mask.shape)}; it must be [height, width]."
            )
        if not (torch.isfinite(self.mask).all() and 0 <= self.mask.min() <= self.mask.max() <= 1):
            raise InputError(
                f"The mask of region '{printable(self.name, 60)}' has values outside of 0..1."
            )


def read_mask(path: str | Path) -> Tensor:
    """A picture as a mask `[h, w]`: white acts, black does not; transparency counts as black.

    Raises:
        InputError: no picture that can be read.
    """
    path = Path(path).expanduser()
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("LA"), dtype=np.float32) / 255  # [h, w, 2]
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(
            f"The mask {printable(path.name)} cannot be read ({printable(error)}). Give a PNG that "
            "is white where the adapter acts."
        ) from None
    return torch.from_numpy(pixels[..., 0] * pixels[..., 1])


class Stage:
    """Where drawing stands: which regions there are, and which one's prompt is being read."""

    def __init__(self) -> None:
        self.regions: dict[str, Region] = {}
        self.reading: str | None = None
        self._contexts: Mapping[str, Conditioning] = {}
        self._latent_size = (0, 0)
        self._masks: dict[tuple[object, ...], Tensor] = {}
        self._sizes: dict[int, tuple[int, int]] = {}

    def set(self, regions: Mapping[str, Region]) -> None:
        self.regions = dict(regions)
        self._masks.clear()

    def enter(self, latent_size: tuple[int, int], contexts: Mapping[str, Conditioning]) -> None:
        """Get ready for a step on latents of that height and width."""
        self._contexts = contexts
        if latent_size == self._latent_size:
            return
        self._latent_size = latent_size
        self._sizes = {}
        height, width = latent_size
        while height * width not in self._sizes:  # the UNet halves, rounding up, until 1 x 1
            self._sizes[height * width] = (height, width)
            height, width = (height + 1) // 2, (width + 1) // 2

    def context(self, name: str, like: Tensor) -> Tensor:
        """The region's prompt, `[b, tokens, width]`."""
        return self._contexts[name].context.to(like.device, like.dtype)

    def mask(self, name: str, size: tuple[int, int], like: Tensor) -> Tensor:
        """The region's mask at `size` (height, width), `[1, 1, h, w]`, as `like` is stored."""
        key = (name, size, like.device, like.dtype)
        if key not in self._masks:
            whole = self.regions[name].mask.float()[None, None]
            shrinks = size[0] <= whole.shape[2] and size[1] <= whole.shape[3]
            scaled = F.interpolate(whole, size, mode="area" if shrinks else "bilinear")
            self._masks[key] = scaled.to(like.device, like.dtype)
        return self._masks[key]

    def over(self, name: str, update: Tensor) -> Tensor:
        """The region's mask shaped to multiply `[b, c, h, w]` or `[b, h * w, c]`."""
        if update.dim() == 4:
            height, width = update.shape[-2:]
            return self.mask(name, (height, width), update)
        if update.shape[1] not in self._sizes:
            raise RuntimeError("adapters in regions act while a picture is drawn; use its `draw`")
        return self.mask(name, self._sizes[update.shape[1]], update).reshape(1, -1, 1)

    def shares(self, output: Tensor) -> dict[str | None, Tensor]:
        """What part each region has in attention's `output` `[b, h * w, c]`; None is the rest."""
        masks = {name: self.over(name, output) for name in self.regions}
        total = torch.stack(list(masks.values())).sum(0).clamp_min(1)
        parts: dict[str | None, Tensor] = {name: mask / total for name, mask in masks.items()}
        rest = 1 - torch.stack(list(parts.values())).sum(0)
        return {None: rest, **parts}


def gate_for(key: LayerKey, region: str, stage: Stage, unet: nn.Module | None) -> Gate:
    """What lets the update of the layer `key` through, for an adapter in `region`."""
    if key.part != UNET or _CONTEXT.fullmatch(key.path):
        return partial(_where_read, stage, region)
    if _OF_WHOLE.fullmatch(key.path):
        return _never
    if _OF_TIME.fullmatch(key.path):
        assert unet is not None
        resnet: Any = unet.get_submodule(key.path.rpartition(".")[0])
        return (
            _never if resnet.time_embedding_norm != "default" else TimeGate(stage, region, resnet)
        )
    return partial(_masked, stage, region)


def _where_read(stage: Stage, region: str, update: Tensor) -> Tensor | None:
    return update if stage.reading == region else None


def _never(update: Tensor) -> Tensor | None:
    return None


def _masked(stage: Stage, region: str, update: Tensor) -> Tensor:
    return update * stage.over(region, update)


class TimeGate:
    """Adds a timestep projection's update `[b, c]` where the resnet has a map to add it to.

    The resnet adds the projection to its first convolution's output and normalises the sum, so the
    masked update is added just before that norm.
    """

    def __init__(self, stage: Stage, region: str, resnet: Any) -> None:
        self._stage, self._region = stage, region
        self._update: Tensor | None = None
        self._hook = resnet.norm2.register_forward_pre_hook(self._add)

    def __call__(self, update: Tensor) -> Tensor | None:
        self._update = update
        return None

    def _add(self, _norm: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        if self._update is None:
            return None
        (features,) = inputs  # [b, c, h, w]
        update = self._update[:, :, None, None] * self._stage.over(self._region, features)
        self._update = None
        return (features + update.to(features.dtype),)

    def close(self) -> None:
        self._hook.remove()


class RegionalAttention:
    """A cross-attention processor of diffusers that reads each region's prompt and mixes.

    All that follows attention inside the processor is affine, so that mixing behind it, by shares
    that add up to 1, is mixing attention itself.
    """

    def __init__(self, inner: Any, stage: Stage) -> None:
        self.inner = inner
        self._stage = stage

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attention's output `[b, h * w, c]` for `hidden_states` of that shape."""
        assert encoder_hidden_states is not None
        mixed: Tensor | None = None
        for region, share in self._stage.shares(hidden_states).items():
            context = encoder_hidden_states
            if region is None:
                if not share.any():
                    continue
            else:
                context = self._stage.context(region, context)
            self._stage.reading = region
            output = self.inner(
                attn,
                hidden_states,
                encoder_hidden_states=context,
                attention_mask=attention_mask,
            )
            mixed = output * share if mixed is None else mixed + output * share
        self._stage.reading = None
        assert mixed is not None
        return mixed


def set_attention(unet: Any, stage: Stage | None) -> None:
    """Let the UNet's cross-attention read regions; None puts its own processors back."""
    for path, module in unet.named_modules():
        if not path.endswith(".attn2"):
            continue
        inner = module.processor
        inner = inner.inner if isinstance(inner, RegionalAttention) else inner
        module.set_processor(inner if stage is None else RegionalAttention(inner, stage))
