"""From a picture file to upright 8-bit RGB. No torch.

What becomes of a picture, in this order:

1. The header is read first. Pictures over the limit of pixels are refused before any is decoded,
   and only the formats in `FORMATS` are tried, whatever the file is called.
2. Of an animation or a file of several pages the first is taken.
3. 16-bit grey is scaled: v / 257, rounded. 16-bit colour keeps its upper byte. Pictures of 32 bits
   a channel, whole numbers or floats, are refused: the file does not say what their range is.
4. An embedded ICC profile is converted to sRGB (relative colorimetric, with black-point
   compensation) where it is of the picture's own kind, else ignored. Without a profile RGB and
   grey are taken as sRGB; CMYK as (255 - ink) (255 - black) / 255 a channel, YCbCr by JFIF.
5. Transparency is laid on white, whether it is an alpha channel or a palette entry.
6. The EXIF orientation is applied.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from lora_diffusion.errors import InputError, printable
from trainers.data.source import Source

MAX_MEGAPIXELS = 100
ALPHA_BACKGROUND = (255, 255, 255)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF")
ORIENTATION = ExifTags.Base.Orientation
_TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap height and width
_TEXT_KEYS = ("parameters", "prompt", "caption", "description", "comment")
_EXIF_TEXTS = (ExifTags.Base.UserComment, ExifTags.Base.ImageDescription)
_MAX_PROMPT = 10_000
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}  # mode -> ICC's name


def load_rgb(path: Source, max_megapixels: int = MAX_MEGAPIXELS) -> Image.Image:
    """The picture as 8-bit RGB, upright, by the rules above.

    Raises:
        InputError: damaged, over `max_megapixels`, not a picture, or of an unknown range.
    """
    try:
        with path.open("rb") as file, open_header(file, max_megapixels) as picture:
            return to_rgb(picture)
    except InputError as error:
        raise InputError(f"{printable(path)}: {error}") from None
    except OSError as error:
        raise InputError(f"{printable(path)}: {unreadable(error)}") from None


def read_size(path: Source, max_megapixels: int = MAX_MEGAPIXELS) -> tuple[int, int]:
    """(height, width) of the upright picture in px, from its header.

    Raises:
        InputError: not a picture, or over `max_megapixels`.
    """
    try:
        with path.open("rb") as file, open_header(file, max_megapixels) as picture:
            return upright_size(picture)
    except InputError as error:
        raise InputError(f"{printable(path)}: {error}") from None
    except OSError as error:
        raise InputError(f"{printable(path)}: {unreadable(error)}") from None


@contextmanager
def open_header(file: BinaryIO, max_megapixels: int) -> Iterator[Image.Image]:
    """The picture in `file`, not decoded yet; what goes wrong with it is told in one sentence.

    Raises:
        InputError: no picture of a known format, damaged (also within the block, when it is
            decoded), or over `max_megapixels`. The message does not begin with the file's name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow: bombs, odd metadata
            with Image.open(file, formats=FORMATS) as picture:
                if picture.width * picture.height > max_megapixels * 1_000_000:
                    raise Image.DecompressionBombError
                yield picture
    except Image.DecompressionBombError:
        raise InputError(
            f"is over the limit of {max_megapixels} megapixels. Scale it down or remove it, or "
            "raise data.max_megapixels."
        ) from None
    except UnidentifiedImageError:
        raise InputError(
            "is not a picture that can be read. Replace it or take it out of the folder."
        ) from None
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, OverflowError, MemoryError, EOFError) as error:
        raise InputError(unreadable(error)) from None


def unreadable(error: Exception) -> str:
    """A sentence for what the system or the decoder says."""
    reason = printable(getattr(error, "strerror", None) or error, 80)
    return f"can't be decoded ({reason}). Replace it or take it out of the folder."


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened picture after its EXIF orientation, which is not applied."""
    width, height = picture.size
    if picture.format == "TIFF":  # Pillow turns these itself
        return height, width
    orientation = picture.getexif().get(ORIENTATION)
    return (width, height) if orientation in _TURNED else (height, width)


def to_rgb(picture: Image.Image) -> Image.Image:
    """An opened picture as 8-bit RGB, upright, by the rules above.

    Raises:
        OSError, SyntaxError, ValueError: Pillow's, for damaged ones.
        InputError: its numbers have an unknown range.
    """
    picture.load()
    mode, profile = picture.mode, picture.info.get("icc_profile")
    if mode in ("I", "F"):
        raise InputError(
            "has 32 bits a channel, of which the file does not give the range. Save it with 8 or "
            "16 bits."
        )
    upright = ImageOps.exif_transpose(picture)
    if mode.startswith("I;16"):
        values = np.asarray(upright, dtype=np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    alpha = None
    if upright.has_transparency_data:
        with_alpha = upright.convert("RGBA")
        alpha = with_alpha.getchannel("A")
        upright = with_alpha.convert("RGB") if mode not in ("LA", "L") else upright.convert("L")
    elif mode in ("P", "1"):
        upright = upright.convert("RGB" if mode == "P" else "L")
    rgb = _to_srgb(upright, profile)
    if alpha is None:
        return rgb
    ground = Image.new("RGB", rgb.size, ALPHA_BACKGROUND)
    ground.paste(rgb, mask=alpha)
    return ground


def read_prompt(path: Source) -> str | None:
    """The prompt or description within a picture file: PNG text, or EXIF; None where there is none.

    Of what AUTOMATIC1111 writes, the part before the negative prompt and the settings.
    """
    try:
        with path.open("rb") as file, open_header(file, MAX_MEGAPIXELS) as picture:
            texts = {str(key).lower(): value for key, value in picture.info.items()}
            exif = picture.getexif()
            inner = exif.get_ifd(ExifTags.IFD.Exif)
    except (InputError, OSError):
        return None
    candidates = [texts.get(key) for key in _TEXT_KEYS]
    candidates += [inner.get(tag) or exif.get(tag) for tag in _EXIF_TEXTS]
    for candidate in candidates:
        text = _text(candidate)
        if text and not text.lstrip().startswith(("{", "<")):  # a workflow, or XML
            prompt = text.split("\nNegative prompt:")[0].split("\nSteps:")[0]
            return " ".join(prompt[:_MAX_PROMPT].split()) or None
    return None


def _text(value: object) -> str:
    if isinstance(value, str):
        return value.strip("\0 ")
    if isinstance(value, bytes):  # EXIF's UserComment says its encoding in eight bytes
        mark, rest = value[:8], value[8:]
        if mark == b"UNICODE\0":
            wide = "utf-16-le" if rest[1:2] == b"\0" else "utf-16-be"
            return rest.decode(wide, "replace").strip("\0 ")
        return (rest if mark == b"ASCII\0\0\0" else value).decode("utf-8", "replace").strip("\0 ")
    return ""


def _to_srgb(picture: Image.Image, profile: object) -> Image.Image:
    """Through the embedded profile where there is one that fits, else as Pillow converts."""
    if isinstance(profile, bytes) and profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if source.profile.xcolor_space.strip() == _SPACES.get(picture.mode):
                converted = ImageCms.profileToProfile(
                    picture,
                    source,
                    ImageCms.createProfile("sRGB"),
                    renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                    outputMode="RGB",
                    flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
                )
                assert converted is not None  # not in place
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # the profile is damaged: the picture is taken without it
    return picture.convert("RGB")
