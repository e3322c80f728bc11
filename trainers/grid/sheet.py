"""The labelled sheet as a PNG, its parameters inside and beside it as JSON. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import replace_atomically, write_text
from lora_diffusion.formats.metadata import public_name
from trainers.contact_sheet import INK, MUTED, PAGE, font, wrapped
from trainers.grid.axes import Axis, Cell

KEY = "lora_diffusion.grid"
VERSION = 1
_MARGIN_PX, _GAP_PX, _LABEL_PX, _HEAD_PX = 28, 10, 168, 66
_CELL_PX = (192, 384)  # cells are drawn at least and at most so large
_LINE_PX, _MOST_LINES = 20, 4


@dataclass(frozen=True)
class Grid:
    """What is on a sheet.

    Attributes:
        x, y: what varies; y is None for a sheet of one row.
        rows: the cells.
        sampler, width_px, height_px: of all pictures.
    """

    x: Axis
    y: Axis | None
    rows: Sequence[Sequence[Cell]]
    sampler: str
    width_px: int
    height_px: int

    def as_json(self) -> dict[str, Any]:
        """All that is needed to draw the sheet again."""
        return {
            "version": VERSION,
            "x": asdict(self.x),
            "y": asdict(self.y) if self.y else None,
            "sampler": self.sampler,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "rows": [[_cell_json(cell) for cell in row] for row in self.rows],
        }


def save_sheet(grid: Grid, pictures: Sequence[Sequence[Image.Image]], path: Path) -> Path:
    """Write the sheet, and its JSON beside it; returns the JSON's path.

    The PNG holds the JSON under `lora_diffusion.grid`, and in words under `parameters`.

    Raises:
        OSError: the disk is full or not writable.
    """
    told = json.dumps(grid.as_json(), ensure_ascii=False)
    info = PngInfo()
    info.add_itxt("parameters", _words(grid))
    info.add_itxt(KEY, told)
    sheet = _draw(grid, pictures)
    replace_atomically(path, lambda target: sheet.save(target, "PNG", pnginfo=info))
    write_text(beside(path), told + "\n")
    return beside(path)


def beside(path: Path) -> Path:
    """Where the JSON of a sheet lies."""
    return path.with_suffix(".json")


def read_parameters(path: Path) -> dict[str, Any]:
    """What a sheet says about itself.

    Raises:
        InputError: it is no sheet of ours.
    """
    try:
        with Image.open(path) as opened:
            text = getattr(opened, "text", {}).get(KEY, "")
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{printable(path.name)}: is not a sheet of 'lora-diffusion grid' "
            f"({printable(error, 80)})."
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{printable(path.name)}: is not a sheet of 'lora-diffusion grid'.")
    return found


def _draw(grid: Grid, pictures: Sequence[Sequence[Image.Image]]) -> Image.Image:
    cell = min(max(max(pictures[0][0].size), _CELL_PX[0]), _CELL_PX[1])
    label = _LABEL_PX if grid.y else 0
    columns = [wrapped(text, font(15), cell - 8)[:_MOST_LINES] for text in grid.x.labels]
    top = _MARGIN_PX + _HEAD_PX + _LINE_PX * max(map(len, columns)) + 8
    width = 2 * _MARGIN_PX + label + len(columns) * (cell + _GAP_PX) - _GAP_PX
    height = top + len(pictures) * (cell + _GAP_PX) - _GAP_PX + _MARGIN_PX
    sheet = Image.new("RGB", (max(width, 420), height), PAGE)
    canvas = ImageDraw.Draw(sheet)
    title, subtitle = _titles(grid)
    room = sheet.width - 2 * _MARGIN_PX
    canvas.text((_MARGIN_PX, _MARGIN_PX - 6), wrapped(title, font(22), room)[0], INK, font(22))
    canvas.text(
        (_MARGIN_PX, _MARGIN_PX + 26), wrapped(subtitle, font(14), room)[0], MUTED, font(14)
    )
    for place, lines in enumerate(columns):
        left = _MARGIN_PX + label + place * (cell + _GAP_PX)
        for line, text in enumerate(lines):
            up = len(lines) - line
            canvas.text((left, top - 8 - _LINE_PX * up), text, INK, font(15))
    for number, row in enumerate(pictures):
        y = top + number * (cell + _GAP_PX)
        if grid.y:
            lines = wrapped(grid.y.labels[number], font(15), label - 16)
            for line, text in enumerate(lines[: cell // _LINE_PX]):
                canvas.text((_MARGIN_PX, y + 4 + _LINE_PX * line), text, INK, font(15))
        for place, picture in enumerate(row):
            shown = _fitted(picture, cell)
            left = _MARGIN_PX + label + place * (cell + _GAP_PX)
            sheet.paste(shown, (left + (cell - shown.width) // 2, y + (cell - shown.height) // 2))
    return sheet


def _fitted(picture: Image.Image, cell: int) -> Image.Image:
    """Small pictures keep their pixels, large ones are averaged."""
    scale = cell / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    how = Image.Resampling.NEAREST if max(picture.size) <= 128 else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, how)


def _titles(grid: Grid) -> tuple[str, str]:
    """What is the same in all pictures."""
    first, varied = grid.rows[0][0], {grid.x.name, grid.y.name if grid.y else ""}
    names = " by ".join(name for name in (grid.y.name if grid.y else "", grid.x.name) if name)
    same = [] if "checkpoint" in varied else [f"base {public_name(first.base)}"]
    shown = {name for name in varied if name.startswith("weight.")}
    for path, weights in first.adapters.items():
        if "adapter" in varied or "weight" in varied or f"weight.{path.stem}" in shown:
            continue
        same.append(f"{path.stem} at {weights}")
    told = {
        "seed": f"seed {first.seed}",
        "steps": f"{first.steps} steps",
        "cfg": f"CFG {first.cfg:g}",
    }
    same += [text for name, text in told.items() if name not in varied]
    same.append(grid.sampler)
    title = names if "prompt" in varied else first.prompt
    lead = [] if "prompt" in varied else [names]
    return printable(title), printable(" · ".join([*lead, *same]))


def _words(grid: Grid) -> str:
    """The sheet in the words that other programs show."""
    title, subtitle = _titles(grid)
    axes = [f"X: {'; '.join(grid.x.labels)}"]
    if grid.y:
        axes.append(f"Y: {'; '.join(grid.y.labels)}")
    first = grid.rows[0][0]
    negative = [f"Negative prompt: {first.negative}"] if first.negative else []
    return "\n".join([title, *negative, subtitle, *axes])


def _cell_json(cell: Cell) -> dict[str, Any]:
    told = asdict(cell)
    told["adapters"] = {str(path): str(own) for path, own in cell.adapters.items()}
    return told
