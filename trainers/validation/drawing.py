"""The loss map as a picture: pictures down, timesteps across, colour by what training changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lora_diffusion.errors import printable
from lora_diffusion.files import replace_atomically
from trainers.validation.findings import Finding, find
from trainers.validation.loss_map import LossMap, Row

MAX_ROWS = 60
_CELL_PX, _ROW_PX, _GAP_PX = 64, 26, 3
_NAME_PX, _REMARK_PX, _MARGIN_PX, _HEAD_PX = 260, 330, 28, 104
_PAGE, _INK, _MUTED, _ACCENT, _BAD = "#F4F4F2", "#1B1D20", "#5C5F63", "#2F4BD8", "#B3261E"
_LOWER, _SAME, _HIGHER = (47, 75, 216), (255, 255, 255), (201, 72, 40)
_FULL_COLOUR = math.log(2)  # half or double the base's loss
_TITLES = {"held_out": "held out", "trained": "trained", "class": "class pictures"}
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(loss_map: LossMap, path: Path) -> None:
    """Draw the map as a PNG. Each number is the loss as a share of the base's, in percent.

    Raises:
        OSError: the disk is full.
    """
    remarks: dict[str, Finding] = {}
    for finding in find(loss_map):
        remarks.setdefault(finding.picture, finding)
    groups = [(sort, loss_map.of(sort)) for sort in _TITLES]
    shown = [(sort, _most_telling(rows, remarks)) for sort, rows in groups if rows]
    count = sum(len(rows) + 1 for _, rows in shown)
    columns = len(loss_map.timesteps)
    width = 2 * _MARGIN_PX + _NAME_PX + columns * (_CELL_PX + _GAP_PX) + _REMARK_PX
    height = _HEAD_PX + count * (_ROW_PX + _GAP_PX) + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), _PAGE)
    canvas = ImageDraw.Draw(sheet)
    left = _MARGIN_PX + _NAME_PX
    canvas.text((_MARGIN_PX, _MARGIN_PX - 6), f"Loss map, step {loss_map.step:,}", _INK, _font(24))
    subtitle = "loss of each picture at each timestep, in percent of the base's; blue is learned"
    canvas.text((_MARGIN_PX, _MARGIN_PX + 26), subtitle, _MUTED, _font(14))
    for column, time in enumerate(loss_map.timesteps):
        at = (left + column * (_CELL_PX + _GAP_PX) + _CELL_PX / 2, _HEAD_PX - 8)
        canvas.text(at, f"t {time}", _MUTED, _font(13), anchor="mb")
    top = _HEAD_PX
    for sort, rows in shown:
        title = f"{_TITLES[sort]} ({len(loss_map.of(sort))})"
        canvas.text((_MARGIN_PX, top + _ROW_PX / 2), title, _ACCENT, _font(14), anchor="lm")
        top += _ROW_PX + _GAP_PX
        for row in rows:
            _draw_row(canvas, row, remarks.get(row.name), left, top)
            top += _ROW_PX + _GAP_PX
    replace_atomically(path, lambda beside: sheet.save(beside, "PNG"))


def _draw_row(
    canvas: ImageDraw.ImageDraw, row: Row, remark: Finding | None, left: int, top: int
) -> None:
    middle = top + _ROW_PX / 2
    name = _cut(printable(row.name, 80), _font(13), _NAME_PX - 16)
    canvas.text((_MARGIN_PX, middle), name, _BAD if remark else _INK, _font(13), anchor="lm")
    for column, (loss, base) in enumerate(zip(row.loss, row.base, strict=True)):
        x = left + column * (_CELL_PX + _GAP_PX)
        share = loss / base if base > 0 and math.isfinite(loss / base) else math.nan
        colour = _colour(share)
        canvas.rectangle((x, top, x + _CELL_PX - 1, top + _ROW_PX - 1), colour)
        dark = sum(colour) < 360
        text = f"{100 * share:.0f}" if math.isfinite(share) else "–"
        ink = _PAGE if dark else _INK
        canvas.text((x + _CELL_PX / 2, middle), text, ink, _font(13), anchor="mm")
    if remark:
        x = left + len(row.loss) * (_CELL_PX + _GAP_PX) + 10
        text = _cut(remark.short, _font(13), _REMARK_PX - 12)
        canvas.text((x, middle), text, _BAD, _font(13), anchor="lm")


def _most_telling(rows: Sequence[Row], remarks: dict[str, Finding]) -> list[Row]:
    """At most `MAX_ROWS`, in order: those with a remark, and the first of the others."""
    marked = [row for row in rows if row.name in remarks][:MAX_ROWS]
    plain = [row for row in rows if row.name not in remarks][: MAX_ROWS - len(marked)]
    kept = {id(row) for row in (*marked, *plain)}
    return [row for row in rows if id(row) in kept]


def _colour(share: float) -> tuple[int, int, int]:
    """White where nothing changed, blue where the loss fell, red where it rose."""
    if not math.isfinite(share) or share <= 0:
        return _SAME
    strength = max(-1.0, min(1.0, math.log(share) / _FULL_COLOUR))
    end = _HIGHER if strength > 0 else _LOWER
    mixed = [
        round(same + abs(strength) * (full - same)) for same, full in zip(_SAME, end, strict=True)
    ]
    return (mixed[0], mixed[1], mixed[2])


def _cut(text: str, font: Font, width_px: float) -> str:
    """`text` with its middle left out until it fits."""
    keep = len(text)
    shown = text
    while font.getlength(shown) > width_px and keep > 4:
        keep -= 1
        shown = f"{text[: keep // 2]}…{text[len(text) - keep // 2 :]}"
    return shown


def _font(size_px: int) -> Font:
    return ImageFont.load_default(size_px)
