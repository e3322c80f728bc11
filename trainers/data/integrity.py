"""Whether a picture file is whole, told from its bytes where the decoder looks away. No torch.

Pillow decodes a JPEG that was cut off within its last rows, and a PNG whose data was changed, and
says nothing. Sources: ITU-T T.81 annex B (JPEG's markers); W3C PNG, section 5 (chunks, CRC-32).
"""

from __future__ import annotations

import zlib
from typing import BinaryIO

_PNG_MARK = b"\x89PNG\r\n\x1a\n"
_BLOCK = 1 << 20
_START_OF_SCAN, _END = 0xDA, b"\xff\xd9"
# Markers without a length: TEM, RST0-7, SOI.
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


def damage(file: BinaryIO, format: str | None) -> str | None:
    """What is broken in `file`, a few words; None where nothing is, or its format is another."""
    file.seek(0)
    if format == "PNG":
        return _png_damage(file)
    if format in ("JPEG", "MPO"):
        return _jpeg_damage(file)
    return None


def _png_damage(file: BinaryIO) -> str | None:
    if file.read(8) != _PNG_MARK:
        return None
    while True:
        head = file.read(8)
        if len(head) < 8:
            return "it is cut off"
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        check = zlib.crc32(kind)
        while length:
            block = file.read(min(length, _BLOCK))
            if not block:
                return "it is cut off"
            check = zlib.crc32(block, check)
            length -= len(block)
        written = file.read(4)
        if len(written) < 4 and kind != b"IEND":
            return "it is cut off"
        # Readers pass over a wrong sum in chunks that they may leave out (lower-case first letter).
        if int.from_bytes(written, "big") != check and kind[:1].isupper() and kind != b"IEND":
            return f"its {kind.decode('latin-1')} data is damaged"
        if kind == b"IEND":
            return None


def _jpeg_damage(file: BinaryIO) -> str | None:
    if file.read(2) != b"\xff\xd8":
        return None
    while True:  # the headers, which may hold a whole thumbnail
        mark = file.read(1)
        if mark != b"\xff":
            return "its headers are damaged" if mark else "it is cut off"
        while (code := file.read(1)) == b"\xff":
            pass
        if not code:
            return "it is cut off"
        if code[0] in _BARE:
            continue
        length = int.from_bytes(file.read(2), "big")
        if code[0] == _START_OF_SCAN:
            break
        file.seek(max(0, length - 2), 1)
    tail = b""
    while block := file.read(_BLOCK):
        if _END in tail + block:  # 0xFF within the data is followed by 0: this is the mark
            return None
        tail = block[-1:]
    return "it is cut off"
