"""From a picture file to upright 8-bit RGB. No torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageOps

from lora_diffusion.errors import InputError, printable
from trainers.data.source import Source

MAX_PIXELS = 100_000_000
ALPHA_BACKGROUND = (255, 255, 255)
_MAX_NAMED = 20


def load_rgb(path: Source) -> Image.Image:
    """The picture as 8-bit RGB, upright.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bit,
    palette and CMYK are converted; of an animation the first frame is taken.

    Raises:
        InputError: damaged, over 100 megapixels (read from the header, before decoding), or not
            a picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with path.open("rb") as file:
                picture = Image.open(file)
                if picture.width * picture.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                picture.load()
    except Image.DecompressionBombError:
        raise InputError(
            f"{printable(path)}: is over the limit of {MAX_PIXELS // 1_000_000} megapixels. Scale "
            "it down or remove it."
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{printable(path)}: can't be decoded ({printable(error, 80)}). Replace it or take it "
            "out of the folder."
        ) from None
    return _to_rgb(ImageOps.exif_transpose(picture))


def check_decodable(paths: Sequence[Source], on_progress: Callable[[int, int], None]) -> None:
    """Decode every picture once, before anything slow begins.

    Raises:
        InputError: names each picture that can't be used, a line each.
    """
    problems = []
    for number, path in enumerate(paths):
        on_progress(number, len(paths))
        try:
            load_rgb(path)
        except InputError as error:
            problems.append(str(error))
    if problems:
        more = len(problems) - _MAX_NAMED
        rest = [f"… and {more} more."] if more > 0 else []
        raise InputError("\n".join([*problems[:_MAX_NAMED], *rest]))


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        values = np.asarray(picture, dtype=np.float64)
        return Image.fromarray((values / 257).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (*ALPHA_BACKGROUND, 255))
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return picture.convert("RGB")
