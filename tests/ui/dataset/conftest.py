"""A folder of pictures with something wrong in it, and the functions that the page asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ui.context import Context
from ui.dataset.functions import functions
from ui.dataset.opening import Opening

Ask = Callable[..., dict[str, Any]]


def draw(path: Path, seed: int, size: tuple[int, int] = (600, 600)) -> None:
    """A soft picture that looks like no other seed's."""
    low = np.random.default_rng(seed).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(low).resize(size, Image.Resampling.BICUBIC).save(path, compress_level=1)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six pictures: captions of five, a copy, a tiny one."""
    folder = tmp_path / "pictures"
    for number in range(4):
        draw(folder / f"{number}.png", number)
        (folder / f"{number}.txt").write_text(f"a cat, red, number {number}\n")
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "copy.txt").write_text("a cat, red, number 0\n")
    draw(folder / "tiny.png", 9, (64, 64))
    return folder


@pytest.fixture
def ask(context: Context, tmp_path: Path) -> Iterator[Ask]:
    """`ask("open", folder=…)` as the page does."""
    opening = Opening(context.datasets, context.tasks, context.uploads, tmp_path / "index")
    known = {function.__name__: function for function in functions(context, opening)}

    def asked(name: str, /, **request: Any) -> dict[str, Any]:
        return known[f"dataset_{name}"](request)

    yield asked
    context.close()
