"""Crop and turn a picture in its own format, and its mask with it; take in painted masks. No torch.

Boxes are shares of the upright picture: left, top, right, bottom, each in [0, 1].
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from lora_diffusion.errors import InputError, printable
from trainers.data import decode
from trainers.data.names import without_ending

ShareBox = tuple[float, float, float, float]
Turn = Literal["left", "right"]
MASK_MARK = ".mask"
MAX_MASK_SIDE_PX = 1024
MIN_SIDE_PX = 8
_TURNS = {"left": Image.Transpose.ROTATE_90, "right": Image.Transpose.ROTATE_270}
_KEPT_FORMATS = frozenset({"PNG", "JPEG", "WEBP", "BMP", "TIFF"})
_QUALITY = 95  # of JPEG and WebP
_MAX_MASK_BYTES = 4_000_000
_WRITTEN = (OSError, ValueError, KeyError, SyntaxError)


def cropped(path: Path, box: ShareBox) -> bytes:
    """The file's content after a crop; in its own format, with its colours and its metadata.

    Raises:
        InputError: the box is no box, or leaves less than 8 px; the file is no picture, holds
            several, or is of a format that can't be written.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise InputError("Draw a box on the picture first.")

    def crop(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        sides = (
            round(left * width), round(top * height), round(right * width), round(bottom * height)
        )  # fmt: skip
        if min(sides[2] - sides[0], sides[3] - sides[1]) < MIN_SIDE_PX:
            raise InputError(f"That leaves less than {MIN_SIDE_PX} px. Draw a larger box.")
        return picture.crop(sides)

    return _edited(path, crop)


def turned(path: Path, turn: Turn) -> bytes:
    """The file's content turned by a quarter; errors as `cropped`."""
    return _edited(path, lambda picture: picture.transpose(_TURNS[turn]))


def mask_name(picture: str) -> str:
    """Where the trainer looks for the mask of a picture: beside it, as `a.mask.png`."""
    return f"{without_ending(picture)}{MASK_MARK}.png"


def mask_content(painted: bytes) -> bytes:
    """A painted mask as the file that the trainer reads: 8-bit grey PNG, white is learned.

    Raises:
        InputError: not a picture of at most 1,024 px a side, or black all over.
    """
    try:
        if len(painted) > _MAX_MASK_BYTES:
            raise ValueError("too many bytes")
        with Image.open(io.BytesIO(painted), formats=("PNG",)) as opened:
            if max(opened.size) > MAX_MASK_SIDE_PX:
                raise ValueError("too large")
            grey = opened.convert("L")
    except (*_WRITTEN, Image.DecompressionBombError):
        raise InputError("The painted mask did not arrive whole. Save it again.") from None
    if grey.getextrema()[1] == 0:
        raise InputError(
            "The mask leaves out the whole picture, so nothing of it would be learned. Paint over "
            "what matters, or remove the mask."
        )
    return _saved(grey, "PNG", {})


def _edited(path: Path, edit: Callable[[Image.Image], Image.Image]) -> bytes:
    try:
        with path.open("rb") as file, decode.open_header(file, decode.MAX_MEGAPIXELS) as picture:
            stereo = picture.format == "MPO"  # a phone's JPEG with a second picture behind it
            format = "JPEG" if stereo else picture.format or ""
            several = getattr(picture, "n_frames", 1) > 1 and not stereo
            if format not in _KEPT_FORMATS or several:
                raise InputError(
                    f"is a {printable(picture.format)} picture, which can't be changed here. "
                    "Save it as PNG first."
                )
            upright = ImageOps.exif_transpose(picture)
            return _saved(edit(upright), format, picture.info)
    except InputError as error:
        raise InputError(f"{printable(path.name)}: {error}") from None
    except OSError as error:
        raise InputError(f"{printable(path.name)}: {decode.unreadable(error)}") from None


def _saved(picture: Image.Image, format: str, info: Mapping[Any, Any]) -> bytes:
    out = io.BytesIO()
    options: dict[str, object] = {}
    if isinstance(info.get("icc_profile"), bytes):
        options["icc_profile"] = info["icc_profile"]
    exif = picture.getexif()
    exif.pop(ExifTags.Base.Orientation, None)
    if exif and format != "BMP":
        options["exif"] = exif
    if format == "PNG":
        options["pnginfo"] = _texts(info)
        if "transparency" in info:
            options["transparency"] = info["transparency"]
    elif format in ("JPEG", "WEBP"):
        options["quality"] = _QUALITY
    try:
        picture.save(out, format, **options)
    except _WRITTEN as error:
        raise InputError(f"can't be written as {format} ({printable(error, 80)}).") from None
    return out.getvalue()


def _texts(info: Mapping[Any, Any]) -> PngImagePlugin.PngInfo:
    """What generators write into a PNG, such as the prompt."""
    texts = PngImagePlugin.PngInfo()
    for key, value in info.items():
        if isinstance(key, str) and isinstance(value, str):
            texts.add_itxt(key, value)
    return texts
