"""Masks: which part of a picture the loss looks at, from a mask file or the picture's alpha."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lora_diffusion.errors import InputError, printable
from trainers.data.augment import Look
from trainers.data.decode import MAX_MEGAPIXELS, open_header, unreadable
from trainers.data.source import Source


def read_mask(
    picture: Source, mask: Source | None, max_megapixels: int = MAX_MEGAPIXELS
) -> Image.Image | None:
    """The mask of `picture` as 8-bit grey, upright: white is looked at, black is not.

    Args:
        mask: its mask file; None takes the picture's own alpha channel.

    Returns:
        None where there is neither, and the whole picture counts.

    Raises:
        InputError: a file can't be decoded, is over `max_megapixels`, or is black all over.
    """
    path = mask or picture
    try:
        with path.open("rb") as file, open_header(file, max_megapixels) as opened:
            if mask is None and not opened.has_transparency_data:
                return None
            upright = ImageOps.exif_transpose(opened)
            grey = upright.convert("L") if mask else upright.convert("RGBA").getchannel("A")
    except InputError as error:
        raise InputError(f"{printable(path)}: the mask {error}") from None
    except OSError as error:
        raise InputError(f"{printable(path)}: the mask {unreadable(error)}") from None
    if grey.getextrema()[1] == 0:
        raise InputError(
            f"{printable(path)}: the mask is black all over, so nothing of the picture would be "
            "learned. Correct it or take it away."
        )
    return grey


def apply(mask: Image.Image | None, source_px: tuple[int, int], look: Look, factor: int) -> Tensor:
    """What `look` shows of a mask, at latent resolution: uint8 `[1, h/f, w/f]`, 255 is white.

    Args:
        mask: of any size; it is laid over the whole picture. None is white.
        source_px: (height, width) of the upright picture.
        factor: pixels per latent, along one side.
    """
    height, width = (side // factor for side in look.target_px)
    if mask is None:
        return torch.full((1, height, width), 255, dtype=torch.uint8)
    across, down = mask.width / source_px[1], mask.height / source_px[0]
    left, top, right, bottom = look.box
    box = (left * across, top * down, right * across, bottom * down)
    seen = mask.resize((width, height), Image.Resampling.BOX, box=box)
    if look.flipped:
        seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(seen, dtype=np.uint8))[None]
