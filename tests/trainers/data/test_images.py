"""From a decoded picture to the training crop."""

from __future__ import annotations

import torch
from PIL import Image

from trainers.data.images import fit_square, to_pixels


def test_the_crop_is_square_centred_and_in_range():
    wide = Image.new("RGB", (300, 100), (0, 0, 0))
    wide.paste((255, 255, 255), (90, 0, 210, 100))
    pixels = to_pixels(fit_square(wide, 64))
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == torch.float32
    assert pixels.min() > 0.95
    assert pixels.max() == 1.0
