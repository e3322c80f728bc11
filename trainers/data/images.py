"""Bring a decoded picture to the training size, and to a tensor."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def fit_square(picture: Image.Image, side_px: int) -> Image.Image:
    """Scaled so that the shorter side is `side_px`, then cropped around the centre."""
    return ImageOps.fit(picture, (side_px, side_px), Image.Resampling.LANCZOS)


def to_pixels(picture: Image.Image) -> Tensor:
    """RGB picture -> fp32 `[3, h, w]` in [-1, 1]."""
    array = np.asarray(picture, dtype=np.float32) / 127.5 - 1.0
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()
