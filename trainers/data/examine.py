"""One look at one picture file: its bytes, header and pixels, each read once. No torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lora_diffusion.errors import InputError
from trainers.data import decode, integrity
from trainers.data.source import Source

HASH_SIDE = 8
_GREY_SIDE = 32
_COLOUR_SIDE = 8
_FLAT_SPREAD = 2  # of 255
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Facts:
    """What a picture file is.

    Attributes:
        digest: SHA-256 of its bytes, in hexadecimal; empty where they can't be read.
        error: why it can't be used, cause and fix; empty where it can. The rest is then empty.
        format: Pillow's name, such as PNG.
        mode: Pillow's mode as stored, such as RGB or I;16.
        size_px: (height, width) upright.
        frames: pictures in the file.
        is_turned: EXIF says that it is to be turned or mirrored.
        is_flat: one colour all over.
        look: 64-bit perceptual hash.
        colours: 8 x 8 RGB, row by row.
    """

    digest: str
    error: str = ""
    format: str = ""
    mode: str = ""
    size_px: tuple[int, int] = (0, 0)
    frames: int = 1
    is_turned: bool = False
    is_flat: bool = False
    look: int = 0
    colours: bytes = b""


def examine(path: Source, max_megapixels: int = decode.MAX_MEGAPIXELS) -> Facts:
    """Read, check and decode the picture at `path`; nothing about it is raised."""
    digest = ""
    try:
        with path.open("rb") as file:
            with decode.open_header(file, max_megapixels) as picture:
                digest = _digest(file)
                broken = integrity.damage(file, picture.format)
                if broken:
                    raise OSError(broken)
                file.seek(0)
            with decode.open_header(file, max_megapixels) as picture:
                return _seen(picture, digest)
    except InputError as error:
        return Facts(digest, str(error))
    except OSError as error:
        return Facts(digest, decode.unreadable(error))


def _seen(picture: Image.Image, digest: str) -> Facts:
    size_px = decode.upright_size(picture)
    turned = picture.getexif().get(decode.ORIENTATION, 1) in range(2, 9)
    format, mode = picture.format or "", picture.mode
    frames = getattr(picture, "n_frames", 1)
    rgb = decode.to_rgb(picture)
    small = rgb.resize((_GREY_SIDE, _GREY_SIDE), Image.Resampling.BOX)
    colours = small.resize((_COLOUR_SIDE, _COLOUR_SIDE), Image.Resampling.BOX)
    low_high = rgb.getextrema()
    is_flat = all(high - low <= _FLAT_SPREAD for low, high in low_high)  # type: ignore[misc]
    return Facts(
        digest,
        format=format,
        mode=mode,
        size_px=size_px,
        frames=frames,
        is_turned=turned,
        is_flat=is_flat,
        look=perceptual_hash(small.convert("L")),
        colours=colours.tobytes(),
    )


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    total = hashlib.sha256()
    while block := file.read(_BLOCK):
        total.update(block)
    return total.hexdigest()


def perceptual_hash(grey: Image.Image) -> int:
    """64 bits: which of the 8 x 8 lowest frequencies of a 32 x 32 grey picture lie above their
    median. It changes little with size, compression and brightness.

    Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010),
    section 3.2 (DCT-based hash).
    """
    values = np.asarray(grey, dtype=np.float32)  # [32, 32]
    basis = _dct_basis()
    low = basis @ values @ basis.T  # [8, 8]
    bits = (low > np.median(low)).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@cache
def _dct_basis() -> NDArray[np.float32]:
    """The first 8 cosines of the DCT-II of 32 values, from the second on: `[8, 32]`."""
    k = np.arange(1, HASH_SIDE + 1)[:, None]
    n = np.arange(_GREY_SIDE)[None]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * _GREY_SIDE)).astype(np.float32)
