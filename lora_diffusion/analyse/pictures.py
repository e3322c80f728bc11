"""An analysis as pictures, in the studio's light look. No torch."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_diffusion.analyse.places import ORDER, place_of
from lora_diffusion.analyse.results import (
    Adapter,
    Analysis,
    Layer,
    MetLayer,
    Pair,
    Subspaces,
    grouped,
)
from lora_diffusion.files import replace_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# What `draw_all` names its pictures.
PICTURES = ("layers-*.png", "spectra.png", "interference-*.png", "subspaces.png")
_PAGE, _CARD, _LINE = "#F4F4F2", "#FFFFFF", "#E4E4E1"
_INK, _MUTED, _ACCENT, _SECOND = "#1B1D20", "#5C5F63", "#2F4BD8", "#B45309"
_DPI = 110
_CELL = 0.34  # of a heat map, inches
_ROOM, _BETWEEN = 1.45, 0.4  # for the names of rows, and from map to map, inches
_PANELS = ("attention", "convolutions", "text encoder", "text encoder 2", "others")
Values = dict[tuple[str, str], float]  # (row, column) -> value
Panels = list[tuple[str, list[str], list[str], Values]]


def draw_all(found: Analysis, folder: Path) -> list[Path]:
    """Every picture of an analysis, as PNGs in `folder`; returns their paths.

    Raises:
        OSError: the disk is full or not writable.
    """
    made = []
    for number, adapter in enumerate(found.adapters):
        made.append(_save(_layers(adapter), folder / f"layers-{number + 1}.png"))
    made.append(_save(_spectra(found.adapters), folder / "spectra.png"))
    for number, pair in enumerate(found.pairs):
        made.append(_save(_interference(pair), folder / f"interference-{number + 1}.png"))
    if found.subspaces:
        made.append(draw_subspaces(found.subspaces, folder / "subspaces.png"))
    return made


def draw_subspaces(found: Sequence[Subspaces], path: Path) -> Path:
    """phi(i, j) of some pairs as one PNG; returns its path.

    Raises:
        OSError: the disk is full or not writable.
    """
    return _save(_subspaces(found), path)


def draw_curve(
    points: Mapping[float, float], goal: float, title: str, subtitle: str, across: str, path: Path
) -> Path:
    """Scores over sizes that grow by factors, and the line of what is to be reached, as one PNG.

    Raises:
        OSError: the disk is full or not writable.
    """
    figure = _figure(7.2, 3.9)
    _titles(figure, title, subtitle)
    axes = _axes(figure, 0.85, 0.6, 6.0, 2.4)
    axes.plot(list(points), list(points.values()), "o-", color=_ACCENT, linewidth=1.8)
    axes.axhline(goal, color=_SECOND, linewidth=1.4, linestyle="--")
    axes.set_xscale("log")
    axes.set_ylim(bottom=min(0.0, *points.values()))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel(across, fontsize=9, color=_MUTED)
    axes.grid(color=_LINE, linewidth=0.7)
    return _save(figure, path)


def _layers(adapter: Adapter) -> Figure:
    """Where an adapter's strength is, and how many directions it uses."""
    against_base = all(layer.share is not None for layer in adapter.layers)
    strengths = [layer.share if against_base else layer.norm for layer in adapter.layers]
    strength = _panels(adapter.layers, strengths)
    ranks = _panels(adapter.layers, [layer.effective_rank for layer in adapter.layers])
    told = "update's norm / the base weight's" if against_base else "norm of the update"
    return _maps(
        [_Map(told, strength), _Map("effective rank", ranks)],
        f"{adapter.name}: where it is strong, and with how many directions",
        f"{adapter.kind}, {len(adapter.layers)} layers; whole norm {adapter.norm:.3g}",
    )


def _interference(pair: Pair) -> Figure:
    """Where two adapters collide, and what to turn down."""
    total = sum(layer.excess * layer.strength for layer in pair.layers) or 1.0
    clash = [layer.excess * layer.strength / total for layer in pair.layers]
    overlap = [layer.excess for layer in pair.layers]
    shares = [layer.share_of_first for layer in pair.layers]
    figure = _maps(
        [
            _Map("share of all interference", _panels(pair.layers, clash)),
            _Map("overlap above chance", _panels(pair.layers, overlap)),
            _Map(f"strength: blue {pair.first}", _panels(pair.layers, shares), is_share=True),
        ],
        f"{pair.first} with {pair.second}: where they interfere",
        f"overlap {pair.overlap:.2f} (by chance {pair.chance:.2f})",
        foot=2.9,
    )
    _blocks(figure, pair)
    return figure


def _blocks(figure: Figure, pair: Pair) -> None:
    """Both adapters' strength in each block, and the advice, under the maps."""
    width, height = figure.get_size_inches()
    blocks = sorted(pair.blocks, key=lambda block: _depth(block.block))
    axes = _axes(figure, _ROOM, 0.85, min(4.2, width - 2), 1.6)
    places = range(len(blocks))
    axes.bar([p - 0.2 for p in places], [b.of_first for b in blocks], 0.38, color=_ACCENT)
    axes.bar([p + 0.2 for p in places], [b.of_second for b in blocks], 0.38, color=_SECOND)
    axes.set_xticks(list(places), [b.block for b in blocks], rotation=35, ha="right", fontsize=8)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_title("share of each adapter's strength", fontsize=9, color=_MUTED, loc="left")
    left = (_ROOM + min(4.2, width - 2) + 0.35) / width
    for line, (name, colour) in enumerate(((pair.first, _ACCENT), (pair.second, _SECOND))):
        y = (2.5 - 0.2 * line) / height
        figure.text(left, y, f"■ {name}", color=colour, fontsize=9)
    words = "\n\n".join(pair.advice) or "No block stands out."
    figure.text(
        left, 2.0 / height, _wrapped(words, (width * (1 - left) - 0.3) / 0.085),
        fontsize=9.5, color=_INK, va="top",
    )  # fmt: skip


def _spectra(adapters: Sequence[Adapter]) -> Figure:
    """Singular values as shares of the layer's largest: median and middle 80 % over layers."""
    figure = _figure(8.4, 3.7)
    _titles(
        figure, "How fast the singular values fall",
        "share of the layer's largest; line: median over layers, band: the middle 80 %",
    )  # fmt: skip
    axes = _axes(figure, 0.75, 0.55, 4.6, 2.2)
    colours = _series(len(adapters))
    for adapter, colour in zip(adapters, colours, strict=True):
        curves = [_falling(layer) for layer in adapter.layers if layer.values]
        longest = max(map(len, curves), default=0)
        columns = [sorted(c[i] for c in curves if i < len(c)) for i in range(longest)]
        x = list(range(1, longest + 1))
        axes.fill_between(
            x, [_at(c, 0.1) for c in columns], [_at(c, 0.9) for c in columns],
            color=colour, alpha=0.13, linewidth=0,
        )  # fmt: skip
        axes.plot(x, [_at(c, 0.5) for c in columns], color=colour, linewidth=1.8)
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 1.3)
    axes.set_xlabel("singular value", fontsize=9, color=_MUTED)
    axes.grid(color=_LINE, linewidth=0.7)
    right = _axes(figure, 6.1, 0.55, 2.0, 2.2)
    for place, (adapter, colour) in enumerate(zip(adapters, colours, strict=True)):
        ranks = sorted(layer.effective_rank for layer in adapter.layers)
        right.plot([_at(ranks, 0.1), _at(ranks, 0.9)], [place, place], color=colour, linewidth=2)
        right.plot(_at(ranks, 0.5), place, "o", color=colour, markersize=7)
        right.text(_at(ranks, 0.1), place + 0.16, adapter.name, fontsize=8, color=_INK)
    right.set_ylim(-0.5, len(adapters) - 0.2)
    right.set_xlim(left=0)
    right.set_yticks([])
    right.set_xlabel("effective rank", fontsize=9, color=_MUTED)
    return figure


def _subspaces(found: Sequence[Subspaces]) -> Figure:
    """phi(i, j) of every pair, and what chance would give."""
    rows, side = len(found), 2.9
    figure = _figure(0.8 + 2 * (side + 0.55) + 0.9, 1.15 + rows * (side + 0.75))
    _titles(
        figure, "Do they use the same subspace?",
        "φ of the i and j strongest directions, mean over layers: 1 the same subspace, 0 none",
    )  # fmt: skip
    height = figure.get_size_inches()[1]
    for number, pair in enumerate(found):
        what = "of A" if pair.of == "A" else "of the updates"
        bottom = height - 1.15 - (number + 1) * (side + 0.75) + 0.75
        for column, (title, values) in enumerate((("φ", pair.phi), ("by chance", pair.chance))):
            axes = _axes(figure, 0.8 + column * (side + 0.55), bottom, side, side)
            extent = (0.5, len(values[0]) + 0.5, len(values) + 0.5, 0.5)
            image = axes.imshow(
                values, cmap=_colours(), vmin=0, vmax=1, aspect="auto", extent=extent,
                interpolation="nearest",
            )  # fmt: skip
            axes.set_title(f"{title} {what}", fontsize=9, color=_MUTED, loc="left")
            axes.set_xlabel(f"j of {pair.second}", fontsize=8.5, color=_MUTED)
            if column == 0:
                axes.set_ylabel(f"i of {pair.first}", fontsize=8.5, color=_MUTED)
        bar = figure.add_axes(_box(figure, 0.65 + 2 * (side + 0.55), bottom, 0.14, side))
        figure.colorbar(image, cax=bar).outline.set_visible(False)
        bar.tick_params(labelsize=8, colors=_MUTED, length=0)
    return figure


def _panels(layers: Sequence[Layer | MetLayer], values: Sequence[float | None]) -> Panels:
    """Values on maps: one for each kind of layer, rows down the model, columns as in `ORDER`."""
    placed = [(place_of(layer.key), value) for layer, value in zip(layers, values, strict=True)]
    found: Panels = []
    for panel, inside in grouped(placed, lambda each: each[0].panel).items():
        rows = sorted({place.row for place, _ in inside}, key=_depth)
        columns = sorted(
            {place.column for place, _ in inside},
            key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER),
        )
        cells = {(place.row, place.column): value or 0.0 for place, value in inside}
        found.append((panel, rows, columns, cells))
    return sorted(found, key=lambda each: _PANELS.index(each[0]))


def _depth(row: str) -> tuple[int, list[float], str]:
    """down before mid before up, then by numbers; within a block its sampler is last."""
    sides = ("down", "mid", "up")
    side = next((n for n, name in enumerate(sides) if row.startswith(name)), len(sides))
    block, _, unit = row.partition(" ")
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", unit)] or [math.inf]
    return side, [float(block.partition(".")[2] or 0), *numbers], row


@dataclass(frozen=True)
class _Map:
    """One quantity to be drawn as heat maps.

    Attributes:
        what: its name.
        panels: its values.
        is_share: how something is divided between two: 0.5 is white, and 0 and 1 are colours.
    """

    what: str
    panels: Panels
    is_share: bool = False

    @property
    def top(self) -> float:
        values = [value for *_, cells in self.panels for value in cells.values()]
        return 1.0 if self.is_share else max(values, default=0.0) or 1.0


def _maps(maps: Sequence[_Map], title: str, subtitle: str, foot: float = 0.0) -> Figure:
    """Heat maps of several quantities side by side, one under the other by kind of layer."""
    first = maps[0].panels
    widest = _CELL * max((len(names) for _, _, names, _ in first), default=1)
    tall = sum(_CELL * len(rows) * _squeeze(first) + 0.95 for _, rows, _, _ in first)
    width = max(8.4, _ROOM + len(maps) * (widest + _BETWEEN) + 0.1)
    figure = _figure(width, 1.0 + tall + foot)
    _titles(figure, title, subtitle)
    height = figure.get_size_inches()[1]
    for number, one in enumerate(maps):
        colours = _two_colours() if one.is_share else _colours()
        left = _ROOM + number * (widest + _BETWEEN)
        y = height - 1.0
        for panel, rows, names, cells in one.panels:
            tall_here = _CELL * len(rows) * _squeeze(one.panels)
            y -= 0.2 + tall_here
            axes = _axes(figure, left, y, _CELL * len(names), tall_here)
            grid = [[cells.get((row, name), math.nan) for name in names] for row in rows]
            axes.imshow(grid, cmap=colours, vmin=0, vmax=one.top, aspect="auto")
            size = 8 if _squeeze(one.panels) == 1 else 5.5
            axes.set_xticks(range(len(names)), names, rotation=55, ha="right", fontsize=7.5)
            axes.set_yticks(range(len(rows)), rows if number == 0 else [], fontsize=size)
            axes.set_title(panel, fontsize=9, color=_MUTED, loc="left", pad=4)
            y -= 0.75
        _scale(figure, left, height - 0.87, one, colours)
    return figure


def _squeeze(panels: Panels) -> float:
    """Rows of SDXL's 70 transformers are drawn flatter."""
    return 1.0 if max((len(rows) for _, rows, _, _ in panels), default=1) <= 30 else 0.4


def _scale(figure: Figure, left: float, bottom: float, one: _Map, colours: Colormap) -> None:
    """What a column of maps shows, and a small colour bar of it."""
    axes = figure.add_axes(_box(figure, left, bottom, 1.2, 0.08))
    axes.imshow([[n / 63 for n in range(64)]], cmap=colours, aspect="auto")
    axes.set_axis_off()
    width, height = figure.get_size_inches()
    y = bottom / height
    figure.text((left - 0.06) / width, y, "0", fontsize=8, color=_MUTED, ha="right")
    figure.text((left + 1.26) / width, y, f"{one.top:.3g}   {one.what}", fontsize=8.5, color=_INK)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure as Made

    return Made(figsize=(width, height), dpi=_DPI, facecolor=_PAGE)


def _titles(figure: Figure, title: str, subtitle: str) -> None:
    width, height = figure.get_size_inches()
    left = 0.3 / width
    figure.text(left, 1 - 0.36 / height, title, fontsize=13, color=_INK, weight="bold")
    figure.text(left, 1 - 0.58 / height, subtitle, fontsize=9.5, color=_MUTED)


def _box(
    figure: Figure, left: float, bottom: float, width: float, height: float
) -> tuple[float, float, float, float]:
    whole_width, whole_height = figure.get_size_inches()
    return left / whole_width, bottom / whole_height, width / whole_width, height / whole_height


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at inches from the lower left corner."""
    axes: Axes = figure.add_axes(_box(figure, left, bottom, width, height))
    axes.set_facecolor(_CARD)
    axes.tick_params(colors=_MUTED, length=0, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(_LINE)
    return axes


def _colours() -> Colormap:
    """White to the accent colour; nothing there is the page's own grey."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = ["#F7F8FE", "#B9C3F5", "#6C80E6", _ACCENT, "#16246F"]
    return LinearSegmentedColormap.from_list("accent", stops).with_extremes(bad="#ECECEA")


def _two_colours() -> Colormap:
    """The second adapter's colour to white to the first's."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = [_SECOND, "#F0C89B", "#FFFFFF", "#9CABF0", _ACCENT]
    return LinearSegmentedColormap.from_list("two", stops).with_extremes(bad="#ECECEA")


def _series(count: int) -> list[str]:
    colours = [_ACCENT, _SECOND, "#0B7A75", "#B3261E", "#6B4FA0", "#5C5F63"]
    return [colours[number % len(colours)] for number in range(count)]


def _falling(layer: Layer) -> list[float]:
    return [value / layer.values[0] for value in layer.values]


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _wrapped(text: str, columns: float) -> str:
    return "\n".join(textwrap.fill(line, max(20, int(columns))) for line in text.split("\n"))


def _save(figure: Figure, path: Path) -> Path:
    replace_atomically(path, lambda beside: figure.savefig(beside, format="png"))
    return path
