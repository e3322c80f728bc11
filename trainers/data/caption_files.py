"""Where a picture's captions come from: files beside it, tables of captions, text within it.

No torch. In order: `a.png.txt`, `a.txt`, the same with `.caption`, the folder's `metadata.jsonl`
or the table that the settings name, and on request the text that a generator wrote into the file.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lora_diffusion.errors import InputError, printable
from trainers.data import text_encoding
from trainers.data.names import base, stem, without_ending
from trainers.data.problems import Problem
from trainers.data.source import Source, TarMember

SIDECAR_ENDINGS = (".txt", ".caption")
TABLE_NAME = "metadata.jsonl"
SAMPLE_ENDING = ".json"  # beside a picture in a WebDataset shard
MAX_CAPTION_BYTES = 1_000_000
_MAX_TABLE_BYTES = 1_000_000_000
_NAME_KEYS = ("file_name", "file", "image", "image_path", "path")
_TEXT_KEYS = ("captions", "texts", "caption", "text", "prompt")
_TAGS_KEY = "tags"
_SHOWN = 80

# The name of a picture, or of its stem, within a folder -> its captions.
Table = Mapping[str, tuple[str, ...]]


def sidecar_names(name: str, endings: tuple[str, ...] = SIDECAR_ENDINGS) -> tuple[str, ...]:
    """Names that the caption file of the picture `name` may have, the preferred first."""
    plain = without_ending(name)
    return tuple([start + ending for ending in endings for start in (name, plain)])


def sidecar(picture: Path) -> Path | None:
    """The caption file beside `picture`; None if there is none."""
    candidates = (picture.with_name(name) for name in sidecar_names(picture.name))
    return next((path for path in candidates if path.is_file()), None)


def read_text(path: Source, encoding: str | None = None) -> str:
    """The text of a caption file.

    Args:
        encoding: what to read it as where it has no byte order mark and is not UTF-8.

    Raises:
        InputError: no text, too long for a caption, or in an encoding that can only be guessed;
            the message shows the guess. It does not begin with the file's name.
    """
    try:
        content = _start_of(path)
    except OSError as error:
        raise InputError(
            f"can't be read ({printable(error.strerror)}). Check its rights."
        ) from None
    if len(content) > MAX_CAPTION_BYTES:
        raise InputError("is over 1 MB, which no caption is. Put the caption's text into it.")
    decoded = text_encoding.decode(content)
    if decoded is not None and not decoded.is_certain and encoding:
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            raise InputError(
                f"is not text in {printable(encoding)} (data.caption_encoding). Save it as UTF-8."
            ) from None
    if decoded is None:
        raise InputError("is not text. Write the caption anew, as UTF-8.")
    if not decoded.is_certain:
        seen = printable(" ".join(decoded.text.split()), _SHOWN)
        raise InputError(
            f"is not UTF-8 text; as {decoded.encoding} it reads '{seen}'. If that is right, set "
            f"data.caption_encoding to {decoded.encoding}, or let `lora-diffusion doctor --fix` "
            "write it as UTF-8."
        )
    return decoded.text


def _start_of(path: Source) -> bytes:
    """No more of a file than tells that it is too long. Of 100,000 files each call counts."""
    if isinstance(path, TarMember):
        with path.open("rb") as file:
            return file.read(MAX_CAPTION_BYTES + 1)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        return os.read(handle, MAX_CAPTION_BYTES + 1)
    finally:
        os.close(handle)


def split(text: str, *, one_a_line: bool) -> tuple[str, ...]:
    """The captions in a file's text: all of it is one, or each line is; empty ones are left out."""
    pieces = text.splitlines() if one_a_line else [text]
    captions = (" ".join(piece.split()) for piece in pieces)
    return tuple(caption for caption in captions if caption)


def sample_captions(text: str) -> tuple[str, ...]:
    """The captions in the JSON that describes one picture; none where it has none."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return _texts(row) if _is_row(row) else ()


def read_table(path: Source, problems: list[Problem]) -> dict[str, tuple[str, ...]]:
    """A table of captions: JSON lines with a file name each, or kohya's JSON of picture -> texts.

    Lines that say nothing of use are added to `problems`.

    Raises:
        InputError: it can't be read at all.
    """
    try:
        size = path.size if isinstance(path, TarMember) else path.stat().st_size
        if size > _MAX_TABLE_BYTES:
            raise InputError(f"{printable(path)}: is over 1 GB. Split it by folders.")
        with path.open("rb") as binary, io.TextIOWrapper(binary, encoding="utf-8-sig") as file:
            if path.suffix.lower() == ".json":
                return dict(_from_mapping(json.load(file)))
            return dict(_from_lines(path.name, file, problems))
    except OSError as error:
        raise InputError(
            f"{printable(path)}: can't be read ({printable(error.strerror)}). Check the path."
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"{printable(path)}: is not JSON in UTF-8 ({printable(error, 80)}). Write it anew."
        ) from None


def look_up(table: Table, name: str) -> tuple[str, ...]:
    """What `table` says of the picture `name`, by its whole path, file name or stem."""
    for key in (name, base(name), without_ending(name), stem(name)):
        if key in table:
            return table[key]
    return ()


def _from_lines(
    where: str, lines: Iterator[str] | Any, problems: list[Problem]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            row = None
        name = next((row[key] for key in _NAME_KEYS if key in row), None) if _is_row(row) else None
        if not isinstance(name, str):
            problems.append(
                Problem(
                    f"{where}:{number}",
                    "warning",
                    "bad-caption-table",
                    "is no JSON object with a file_name, so the line is left out",
                    'Write it as {"file_name": "a.png", "text": "a caption"}.',
                )
            )
            continue
        yield name.replace("\\", "/").removeprefix("./"), _texts(row)


def _from_mapping(found: object) -> Iterator[tuple[str, tuple[str, ...]]]:
    if not isinstance(found, dict):
        raise InputError("A caption table in JSON is an object of picture -> caption.")
    for key, value in found.items():
        row = value if _is_row(value) else {"caption": value}
        path = PurePosixPath(str(key).replace("\\", "/"))
        yield (path.name if path.is_absolute() or ":" in str(key) else str(path)), _texts(row)


def _is_row(row: object) -> bool:
    return isinstance(row, dict)


def _texts(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The captions of a table's row; kohya's tags follow its caption."""
    value = next((row[key] for key in _TEXT_KEYS if row.get(key)), None)
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    tags = row.get(_TAGS_KEY)
    if isinstance(tags, list):
        tags = ", ".join(str(tag) for tag in tags)
    if isinstance(tags, str) and tags.strip():
        texts = [f"{text}, {tags}" for text in texts] or [tags]
    whole = (" ".join(text.split()) for text in texts if isinstance(text, str))
    return tuple(text for text in whole if text)
