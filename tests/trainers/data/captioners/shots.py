"""Pictures for captioners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainers.data.captioners import registry
from trainers.data.captioners.plugin import Captioner, Context, Shot

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
}


def shot(name: str = "red", size: tuple[int, int] = (40, 30)) -> Shot:
    """A picture of one colour; of noise for any other name."""
    if name in COLOURS:
        return Shot(Image.new("RGB", size, COLOURS[name]), f"{name}.png", "my_folder")
    source = np.random.default_rng(len(name))
    noise = source.integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Shot(Image.fromarray(noise), f"{name}.png", "my_folder")


def several() -> list[Shot]:
    return [*(shot(name) for name in COLOURS), shot("noise", (30, 50))]


def opened(name: str, trigger: str = "", **settings: Any) -> Captioner:
    plugin = registry.find(name)
    context = Context(trigger, "cpu", "fp32", lambda text: None)
    return plugin.open(plugin.settings(**settings), context)


def fill(folder: Path, count: int) -> list[Path]:
    """Small pictures of many colours, named 000.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"{number:03d}.png"
        colour = (number * 37 % 256, number * 91 % 256, number * 153 % 256)
        Image.new("RGB", (12, 9), colour).save(path)
        paths.append(path)
    return paths
