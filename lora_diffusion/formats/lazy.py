"""Adapters whose layers are read when they are asked for, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.errors import printable
from lora_diffusion.factors import Factors
from lora_diffusion.formats.container import read_tensor
from lora_diffusion.formats.decoding import decode_layer
from lora_diffusion.formats.header import Header, refuse
from lora_diffusion.formats.layout import LayerLayout
from lora_diffusion.formats.reading import Opened, lay_out_opened, open_adapter
from lora_diffusion.keys import LayerKey
from lora_diffusion.shapes import Shape


class LayersOnDisk(Mapping[LayerKey, Factors]):
    """The layers of an adapter file; each look-up reads that layer's tensors anew.

    Raises:
        AdapterFileError: on a look-up: the layer holds NaN or infinity, or the file changed.
    """

    def __init__(self, opened: Opened, layers: tuple[LayerLayout, ...]) -> None:
        self._opened = opened
        self._layouts = {layer.key: layer for layer in layers}
        self._places: dict[str, tuple[Header, str]] = {
            label: (header, name) for label, header, name in opened.located()
        }

    def __getitem__(self, key: LayerKey) -> Factors:
        layout = self._layouts[key]
        tensors = {}
        for label in layout.tensors.values():
            header, name = self._places[label]
            try:
                with header.path.open("rb") as file:
                    tensors[label] = read_tensor(file, header, name)
            except OSError as error:
                refuse(header.path, f"it cannot be read ({printable(error)})")
        return decode_layer(tensors, layout, self._opened.path)

    def __contains__(self, key: object) -> bool:
        return key in self._layouts  # the mixin's own would read the layer

    def __iter__(self) -> Iterator[LayerKey]:
        return iter(self._layouts)

    def __len__(self) -> int:
        return len(self._layouts)


def open_lazily(path: str | Path, shapes: Mapping[LayerKey, Shape] | None = None) -> AdapterFile:
    """`load_adapter` that reads headers only; the adapter's `layers` are read when looked up.

    Raises:
        AdapterFileError: as `load_adapter`, but for what only the numbers tell.
    """
    opened = open_adapter(path)
    laid = lay_out_opened(opened, shapes)
    return AdapterFile(laid.arch, LayersOnDisk(opened, laid.layers), opened.metadata)
