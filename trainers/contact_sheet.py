"""The contact sheet of a run: prompts down; base, steps and final across; same noise in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from lora_diffusion.files import replace_atomically
from trainers.data.captions import has_word

_MAX_COLUMNS = 6
_CELL_PX = 224
_GAP_PX = 12
_LABEL_PX = 232
_MARGIN_PX = 28
PAGE, INK, MUTED, ACCENT = "#F4F4F2", "#1B1D20", "#5C5F63", "#2F4BD8"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Column:
    """One state of the model: its step and a picture for each prompt."""

    step: int
    pictures: Sequence[Path]


def choose_columns(columns: Sequence[Column]) -> list[Column]:
    """The first, the last, and evenly spread ones between, at most six."""
    if len(columns) <= _MAX_COLUMNS:
        return list(columns)
    last = len(columns) - 1
    return [columns[round(i * last / (_MAX_COLUMNS - 1))] for i in range(_MAX_COLUMNS)]


def draw_sheet(
    title: str,
    subtitle: str,
    prompts: Sequence[str],
    trigger: str | None,
    columns: Sequence[Column],
    path: Path,
) -> None:
    """Draw the sheet as a PNG. Rows whose prompt has the trigger are marked in the accent colour.

    Raises:
        OSError: a picture is missing, or the disk is full.
    """
    shown = choose_columns(columns)
    head = _MARGIN_PX + 84
    width = 2 * _MARGIN_PX + _LABEL_PX + len(shown) * (_CELL_PX + _GAP_PX)
    height = head + len(prompts) * (_CELL_PX + _GAP_PX) + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), PAGE)
    canvas = ImageDraw.Draw(sheet)
    canvas.text((_MARGIN_PX, _MARGIN_PX - 6), title, INK, font(24))
    canvas.text((_MARGIN_PX, _MARGIN_PX + 26), subtitle, MUTED, font(15))
    for place, column in enumerate(shown):
        left = _MARGIN_PX + _LABEL_PX + place * (_CELL_PX + _GAP_PX)
        canvas.text((left, head - 24), _column_title(column, place, shown), INK, font(16))
        for row, picture in enumerate(column.pictures):
            top = head + row * (_CELL_PX + _GAP_PX)
            with Image.open(picture) as opened:
                # Small pictures keep their pixels, large ones are averaged.
                how = Image.Resampling.NEAREST if opened.width <= 128 else Image.Resampling.LANCZOS
                cell = (_CELL_PX, _CELL_PX)
                fitted = ImageOps.pad(opened.convert("RGB"), cell, how, PAGE)
                sheet.paste(fitted, (left, top))
    for row, prompt in enumerate(prompts):
        top = head + row * (_CELL_PX + _GAP_PX)
        has_trigger = trigger is not None and has_word(prompt, trigger)
        if has_trigger:
            bar = (_MARGIN_PX, top, _MARGIN_PX + 3, top + _CELL_PX - 1)
            canvas.rectangle(bar, ACCENT)
        kind = "with the trigger" if has_trigger else "without the trigger"
        canvas.text((_MARGIN_PX + 16, top + 8), kind, ACCENT if has_trigger else MUTED, font(13))
        for line, text in enumerate(wrapped(prompt, font(17), _LABEL_PX - 40)[:8]):
            canvas.text((_MARGIN_PX + 16, top + 32 + 23 * line), text, INK, font(17))
    replace_atomically(path, lambda beside: sheet.save(beside, "PNG"))


def _column_title(column: Column, place: int, shown: Sequence[Column]) -> str:
    if place == 0 and column.step == 0:
        return "base, before training"
    return f"step {column.step:,}" + (" (final)" if place == len(shown) - 1 else "")


def wrapped(text: str, face: Font, width_px: int) -> list[str]:
    """`text` in lines that are at most `width_px` wide in that font; a longer word stays whole."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and face.getlength(joined) <= width_px:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def font(size_px: int) -> Font:
    """The font of every sheet."""
    return ImageFont.load_default(size_px)
