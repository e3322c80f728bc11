"""A messy dataset: 1,000 good pictures, and 300 corrupt or odd files in more than 40 modes."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

GOOD = 1_000
BAD_EACH, ODD_EACH = 6, 5
SIDE = 48


@dataclass
class Corpus:
    """What was made.

    Attributes:
        unusable: file -> the mode of its damage; these can't be trained with.
        odd: file -> how it is odd; these can.
        good: the others.
    """

    root: Path
    unusable: dict[str, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    good: list[str] = field(default_factory=list)


def noise(seed: int, height: int = SIDE, width: int = SIDE) -> Image.Image:
    """A picture unlike any of another seed: smooth, so that it compresses as photographs do."""
    source = np.random.default_rng(seed)
    rough = Image.fromarray(source.integers(0, 256, (8, 8, 3), np.uint8))
    return rough.resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def _png(seed: int) -> bytes:
    return encoded(noise(seed), "PNG")


def _jpeg(seed: int) -> bytes:
    return encoded(noise(seed), "JPEG", quality=90)


def _half(format: str) -> Callable[[int], bytes]:
    def make(seed: int) -> bytes:
        content = encoded(noise(seed), format)
        return content[: len(content) // 2]

    return make


def _changed(content: bytes, at: int, by: bytes) -> bytes:
    return content[:at] + by + content[at + len(by) :]


def _flipped_idat(seed: int) -> bytes:
    content = _png(seed)
    at = content.index(b"IDAT") + 40
    return _changed(content, at, bytes([content[at] ^ 0xFF]))


def _zero_tail(content: bytes, share: float) -> bytes:
    keep = int(len(content) * share)
    return content[:keep] + bytes(len(content) - keep)


def _png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header says so, with a right sum and next to no data."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _zip(seed: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", _png(seed))
    return buffer.getvalue()


def _float_tiff(seed: int) -> bytes:
    return encoded(noise(seed).convert("F"), "TIFF")


def _int_tiff(seed: int) -> bytes:
    return encoded(noise(seed).convert("I"), "TIFF")


def _jpeg_headers(seed: int) -> bytes:
    content = _jpeg(seed)
    return content[: content.index(b"\xff\xda")]


def _text(text: str) -> Callable[[int], bytes]:
    return lambda seed: f"{text} {seed}".encode()


def _damaged_note(seed: int) -> bytes:
    """A text chunk is changed: Pillow refuses the picture, and so does training."""
    info = PngInfo()
    info.add_text("comment", "x" * 50)
    content = encoded(noise(seed), "PNG", pnginfo=info)
    return _changed(content, content.index(b"xxxx") + 10, b"?")


UNUSABLE: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "empty": (".png", lambda seed: b""),
    "text": (".jpg", _text("hello")),
    "web page": (".jpg", _text("<!DOCTYPE html><html><body>404")),
    "svg": (".png", _text('<svg xmlns="http://www.w3.org/2000/svg"/>')),
    "pdf": (".jpg", _text("%PDF-1.7\n%")),
    "eps": (".jpg", _text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")),
    "pointer to large file": (".png", _text("version https://git-lfs.github.com/spec/v1\noid")),
    "json": (".webp", _text('{"error": "not found"}')),
    "zip": (".png", _zip),
    "gzip": (".png", lambda seed: gzip.compress(_png(seed))),
    "random bytes": (".png", lambda seed: np.random.default_rng(seed).bytes(500)),
    "zeros": (".jpg", lambda seed: bytes(500 + seed)),
    "heic": (".jpg", lambda seed: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes([seed % 256])),
    "half png": (".png", _half("PNG")),
    "half jpeg": (".jpg", _half("JPEG")),
    "half webp": (".webp", _half("WEBP")),
    "half gif": (".gif", _half("GIF")),
    "half bmp": (".bmp", _half("BMP")),
    "half tiff": (".tiff", _half("TIFF")),
    "half avif": (".avif", _half("AVIF")),
    "jpeg without its end": (".jpg", lambda seed: _jpeg(seed)[:-3]),
    "jpeg headers only": (".jpg", _jpeg_headers),
    "jpeg zero tail": (".JPG", lambda seed: _zero_tail(_jpeg(seed), 0.7)),
    "png zero tail": (".png", lambda seed: _zero_tail(_png(seed), 0.7)),
    "png without its end": (".png", lambda seed: _png(seed)[:-12]),
    "png one byte changed": (".png", _flipped_idat),
    "png damaged note": (".png", _damaged_note),
    "png broken header": (".png", lambda seed: _changed(_png(seed), 24, b"\x77")),
    "png without width": (".png", lambda seed: _png_of_size(0, 8 + seed)),
    "png of too few rows": (".png", lambda seed: _png_of_size(64, 64 + seed)),
    "png mark only": (".png", lambda seed: _png(seed)[:8]),
    "jpeg mark only": (".jpeg", lambda seed: _jpeg(seed)[:3]),
    "webp mark only": (".webp", lambda seed: encoded(noise(seed), "WEBP")[:12]),
    "gif mark only": (".gif", lambda seed: b"GIF89a"),
    "bomb": (".png", lambda seed: _png_of_size(20_000, 20_000 + seed)),
    "float tiff": (".tif", _float_tiff),
    "32-bit tiff": (".tif", _int_tiff),
}


def _exif(seed: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 2 + seed % 7
    return encoded(noise(seed), "JPEG", exif=exif)


def _animation(format: str) -> Callable[[int], bytes]:
    def make(seed: int) -> bytes:
        more = [noise(seed + 100_000)]
        return encoded(noise(seed), format, save_all=True, append_images=more)

    return make


def _alpha(mode: str) -> Callable[[int], bytes]:
    def make(seed: int) -> bytes:
        picture = noise(seed).convert(mode)
        picture.putalpha(noise(seed + 1).convert("L"))
        return encoded(picture, "PNG")

    return make


def _deep_grey(seed: int) -> bytes:
    values = np.asarray(noise(seed).convert("L"), dtype=np.uint16) * 257
    return encoded(Image.fromarray(values), "PNG")


ODD: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "turned": (".jpg", _exif),
    "cmyk": (".jpg", lambda seed: encoded(noise(seed).convert("CMYK"), "JPEG")),
    "palette": (".png", lambda seed: encoded(noise(seed).quantize(64), "PNG")),
    "one bit": (".png", lambda seed: encoded(noise(seed).convert("1"), "PNG")),
    "alpha": (".png", _alpha("RGB")),
    "grey and alpha": (".png", _alpha("L")),
    "16-bit grey": (".png", _deep_grey),
    "animated gif": (".gif", _animation("GIF")),
    "animated webp": (".webp", _animation("WEBP")),
    "pages": (".tif", _animation("TIFF")),
    "progressive": (".jpg", lambda seed: encoded(noise(seed), "JPEG", progressive=True)),
    "wrong ending": (".jpg", _png),
    "bytes after the end": (".jpg", lambda seed: _jpeg(seed) + b"camera's notes" * 9),
    "broken profile": (".png", lambda seed: encoded(noise(seed), "PNG", icc_profile=b"nonsense")),
    "lossless webp": (".WEBP", lambda seed: encoded(noise(seed), "WEBP", lossless=True)),
}

_GOOD_FORMATS = ((".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP"), (".bmp", "BMP"))


def make(root: Path) -> Corpus:
    """Fill `root`; a few seconds."""
    corpus = Corpus(root)
    seed = 0
    for number in range(GOOD):
        seed += 1
        ending, format = _GOOD_FORMATS[number % len(_GOOD_FORMATS)]
        name = f"good-{number:04d}{ending}"
        (root / name).write_bytes(encoded(noise(seed), format))
        corpus.good.append(name)
    for kinds, each, target in (
        (UNUSABLE, BAD_EACH, corpus.unusable),
        (ODD, ODD_EACH, corpus.odd),
    ):
        for mode, (ending, content) in kinds.items():
            for number in range(each):
                seed += 1
                name = f"{mode.replace(' ', '-')}-{number}{ending}"
                (root / name).write_bytes(content(seed))
                target[name] = mode
    _odd_places(corpus, seed)
    return corpus


def _odd_places(corpus: Corpus, seed: int) -> None:
    """Files whose contents are not what is odd about them."""
    root = corpus.root
    if os.name != "nt":
        (root / "dead.png").symlink_to(root / "nowhere.png")
        corpus.unusable["dead.png"] = "link to nowhere"
        os.mkfifo(root / "pipe.png")
        corpus.unusable["pipe.png"] = "pipe"
    folder = root / "folder.png"
    folder.mkdir()
    (folder / "inside.png").write_bytes(_png(seed + 1))
    corpus.odd["folder.png/inside.png"] = "folder named as a picture"
    for name, mode in (("._good.jpg", "hidden"), ("Thumbs.db", "junk")):
        (root / name).write_bytes(b"junk")
        corpus.odd[name] = mode
