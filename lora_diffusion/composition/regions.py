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

A region that is a window is stricter: at each step the UNet sees its mask's bounding box as a
picture of its own, with the region's prompt, and adapters act there as in any picture; the
predictions are mixed by the masks. Nothing passes between windows, and each shows its subject
whole; a soft mask hides the seam. Source: Bar-Tal et al., "MultiDiffusion" (arXiv:2302.08113),
section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import Conditioning


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the picture.

    Attributes:
        name: adapters of one name share the region.
        mask: `[h, w]` of any size, fp32 in 0..1, stretched over the picture.
        prompt: what is drawn there; None takes the picture's.
        window: whether it is drawn as a picture of its own.
    """

    name: str
    mask: Tensor
    prompt: str | None = None
    window: bool = False

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
    """Where drawing stands: which regions there are, and which is being read or drawn alone.

    Attributes:
        regions: all, by name.
        reading: the region whose prompt is being encoded, or read by cross-attention.
        window: the region that is being drawn as a picture of its own.
    """

    def __init__(self) -> None:
        self.regions: dict[str, Region] = {}
        self.reading: str | None = None
        self.window: str | None = None
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

    def conditioning(self, name: str) -> Conditioning:
        """What the UNet is given in the region."""
        return self._contexts[name]

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
        """What part each region has in attention's `output` `[b, h * w, c]`; None is the rest.

        Windows have none: what attention makes there is not shown.
        """
        inside = [region.name for region in self.regions.values() if not region.window]
        return _shared({name: self.over(name, output) for name in inside}, output[:1, :, :1])

    def windows(self, latents: Tensor) -> dict[str | None, Tensor]:
        """What part each window has in the prediction for `latents` `[b, c, h, w]`, likewise."""
        inside = [region.name for region in self.regions.values() if region.window]
        return _shared({name: self.over(name, latents) for name in inside}, latents[:1, :1])


def box_of(mask: Tensor, step: int) -> tuple[slice, slice]:
    """Rows and columns of the box around what of `mask` `[1, 1, h, w]` is above 0.

    It is widened to multiples of `step`. A mask of zeros has an empty box.
    """
    slices = []
    for axis in (2, 3):
        found = mask.amax(dim=5 - axis).flatten().nonzero().flatten()
        size = mask.shape[axis]
        first, last = (int(found[0]), int(found[-1])) if len(found) else (0, -1)
        slices.append(slice(first // step * step, min(size, -(-(last + 1) // step) * step)))
    return slices[0], slices[1]


def _shared(masks: Mapping[str, Tensor], like: Tensor) -> dict[str | None, Tensor]:
    """The masks as shares of at most 1 together, and under None what they leave."""
    total = sum(masks.values(), torch.zeros_like(like)).clamp_min(1)
    parts: dict[str | None, Tensor] = {name: mask / total for name, mask in masks.items()}
    return {None: 1 - sum(parts.values(), torch.zeros_like(like)), **parts}
