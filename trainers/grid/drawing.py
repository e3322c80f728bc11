"""The pictures of a sheet: each base is loaded once, each adapter once for a base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path

from PIL import Image

from lora_diffusion.composition.live import Composition, compose
from lora_diffusion.families.base import DiffusionBase
from lora_diffusion.generate import PictureSpec
from trainers.grid.axes import Cell

OnStep = Callable[[int, int], None]


def draw_cells(
    rows: Sequence[Sequence[Cell]],
    open_base: Callable[[str], DiffusionBase],
    *,
    size_px: tuple[int, int] | None = None,
    sampler: str = "ddim",
    on_step: OnStep = lambda done, total: None,
) -> list[list[Image.Image]]:
    """Draw every cell. Cells with the same seed begin with the same noise.

    Args:
        open_base: loads a base.
        size_px: (width, height); None takes the base's own.
        on_step: called with (denoising steps done, of all).

    Raises:
        InputError: a base or an adapter that can't be used, or a size that the base can't draw.
    """
    places = [(r, c) for r, row in enumerate(rows) for c in range(len(row))]
    total = sum(cell.steps for row in rows for cell in row)
    done = 0
    found: dict[tuple[int, int], Image.Image] = {}

    def files(place: tuple[int, int]) -> tuple[str, list[tuple[str, str]]]:
        cell = rows[place[0]][place[1]]
        return cell.base, [(str(path), str(own)) for path, own in cell.adapters.items()]

    def report(before: int, step: int, of: int) -> None:
        on_step(before + step, total)

    for location, of_base in groupby(sorted(places, key=files), key=lambda p: files(p)[0]):
        base = open_base(location)
        width, height = size_px or (base.native_size_px, base.native_size_px)
        with ExitStack() as stack:
            composition = stack.enter_context(compose(base))
            names: dict[Path, str] = {}
            for _, alike in groupby(of_base, key=files):
                # fewest batches: equal steps and guidance beside each other
                batch = sorted(alike, key=lambda p: (rows[p[0]][p[1]].steps, rows[p[0]][p[1]].cfg))
                shown = [rows[r][c] for r, c in batch]
                _weigh(composition, names, shown[0])
                pictures = [
                    PictureSpec(
                        prompt=cell.prompt,
                        negative=cell.negative,
                        seed=cell.seed,
                        sampling_steps=cell.steps,
                        cfg=cell.cfg,
                        width_px=width,
                        height_px=height,
                        sampler=sampler,
                    )
                    for cell in shown
                ]
                images = composition.draw(pictures, on_step=partial(report, done))
                done += sum(cell.steps for cell in shown)
                found |= dict(zip(batch, images, strict=True))
        del base  # freed before the next one is read
    return [[found[r, c] for c in range(len(row))] for r, row in enumerate(rows)]


def _weigh(composition: Composition, names: dict[Path, str], cell: Cell) -> None:
    """Put on what the cell needs and is not there, take off what it lacks, set the weights."""
    for path in names.keys() - cell.adapters.keys():
        composition.remove(names.pop(path))
    for path, weights in cell.adapters.items():
        if path in names:
            composition.set_weights(names[path], weights)
        else:
            names[path] = composition.add(path, weights)
