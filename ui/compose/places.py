"""Where in the picture an adapter acts, as the black and white PNG that the drawer takes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image

from ui.compose.request import CELLS

_SIDE_PX = 512


def write_place(folder: Path, cells: str) -> Path:
    """The PNG of a grid of cells (`1` acts); equal grids are one file."""
    path = folder / f"place-{hashlib.sha256(cells.encode()).hexdigest()[:20]}.png"
    if not path.is_file():
        grid = Image.new("L", (CELLS, CELLS))
        grid.putdata([255 if cell == "1" else 0 for cell in cells])
        grid.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.NEAREST).save(path, "PNG")
    return path
