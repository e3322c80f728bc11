"""Which encoding a caption file is written in. No torch.

Byte order marks and UTF-8 are certain; anything else is a guess that a person should look at.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from charset_normalizer import from_bytes

# The longer mark first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WESTERN = "cp1252"
# Letters and marks of Western European languages beyond ASCII.
_WESTERN_LETTERS = frozenset(
    "àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿßœÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝŒ‘’“”„–—…•·°«»¿¡£€©®\xa0"
)
_JAPANESE = ("cp932", "euc_jp")
_KANA_SHARE = 0.2  # of the letters beyond ASCII: Japanese sentences have more
_OTHERS = [
    "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257",
    "gb18030", "big5", "cp949", "koi8_r",
]  # fmt: skip
_BESIDE = re.compile(rb"[\x80-\xff]{3}")  # no Western word has three accents in a row
_SAMPLE_BYTES = 20_000


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file's text.

    Attributes:
        text: with all white space as it is in the file; no byte order mark.
        encoding: Python's name of the encoding.
        is_certain: False where the encoding is a guess.
    """

    text: str
    encoding: str
    is_certain: bool


def decode(content: bytes) -> Decoded | None:
    """The text of `content`; None where no encoding gives a text."""
    if content.isascii() and b"\0" not in content:
        return Decoded(content.decode("ascii"), "utf-8", is_certain=True)
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _decoded(content, encoding, is_certain=True)
    wide = _markless_utf16(content)
    if wide:
        return _decoded(content, wide, is_certain=False)
    if b"\0" in content:
        return None
    if found := _decoded(content, "utf-8", is_certain=True):
        return found
    for encoding in _likely(content[:_SAMPLE_BYTES]):
        if found := _decoded(content, encoding, is_certain=False):
            return found
    return None


def _likely(sample: bytes) -> list[str]:
    """Encodings to try on bytes that are not UTF-8, the likeliest first.

    Captions are too short for statistics on bytes to tell the two most usual cases.
    """
    beyond = [c for c in sample.decode(_WESTERN, "replace") if c > "\x7f"]
    if all(c in _WESTERN_LETTERS for c in beyond) and not _BESIDE.search(sample):
        return [_WESTERN]
    kana = {}
    for encoding in _JAPANESE:
        letters = [c for c in sample.decode(encoding, "ignore") if c > "\x7f"]
        kana[encoding] = sum("\u3041" <= c <= "\u30fe" for c in letters) / max(1, len(letters))
    japanese = max(_JAPANESE, key=lambda encoding: kana[encoding])
    best = from_bytes(sample, cp_isolation=_OTHERS, threshold=0.4).best()
    return [
        *([japanese] if kana[japanese] >= _KANA_SHARE else []),
        *([best.encoding] if best else []),
        _WESTERN,
    ]


def _decoded(content: bytes, encoding: str, *, is_certain: bool) -> Decoded | None:
    try:
        return Decoded(content.decode(encoding), encoding, is_certain)
    except UnicodeDecodeError:
        return None


def _markless_utf16(content: bytes) -> str | None:
    """UTF-16 without its mark, told by the zero bytes that half of Latin text then is."""
    if len(content) < 2 or len(content) % 2:
        return None
    half = len(content) // 2
    low, high = content[0::2].count(0), content[1::2].count(0)
    if high > 0.6 * half and low < 0.1 * half:
        return "utf-16-le"
    if low > 0.6 * half and high < 0.1 * half:
        return "utf-16-be"
    return None
