"""Writing an adapter layer by layer, in bounded memory: each is encoded at once and put on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.errors import InputError
from lora_diffusion.factors import DoRAFactors, Factors, FullFactors, LoRAFactors
from lora_diffusion.formats import metadata_of
from lora_diffusion.formats.alphas import with_storable_alphas
from lora_diffusion.formats.container import FLOATS, write_tensors
from lora_diffusion.formats.encoding import encode
from lora_diffusion.keys import LayerKey

_ALIGNED = 64  # bytes


class AdapterStream:
    """An adapter that is written while it is worked out; to be closed.

    LoRA layers all get one alpha, the first one's rank: diffusers reads no other files of kohya's
    right.

    Args:
        folder: where its temporary file lies until `save`; of the size of the adapter.
        arch: `sd15`, `sd21`, `sdxl`.
        dtype: of every number, a key of `container.FLOATS`.
    """

    def __init__(self, folder: Path, arch: str, dtype: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed on exit
        self._arch, self._dtype = arch, dtype
        self._alpha: float | None = None
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._layers: dict[LayerKey, Factors] = {}  # without numbers

    def add(self, key: LayerKey, factors: LoRAFactors | FullFactors) -> Factors:
        """Store one layer.

        Returns:
            What the file will say, each number as it is stored.

        Raises:
            InputError: a number is not finite, or too large for the dtype.
            OSError: the disk is full.
        """
        dtype = FLOATS[self._dtype]
        told: Factors = factors
        if isinstance(told, LoRAFactors):
            if self._alpha is None:
                one = AdapterFile(self._arch, {key: told})
                self._alpha = with_storable_alphas(one, dtype).layers[key].alpha
            told = told.with_alpha(self._alpha)
        encoded = encode(AdapterFile(self._arch, {key: told}), dtype, "kohya")
        for name, tensor in encoded.pieces[""].items():
            self._put(name, tensor)
        self._layers[key] = _each(told, torch.device("meta"), dtype)
        return _each(told, torch.device("cpu"), dtype)

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the file, in kohya's format, beside `path`, then rename it into place.

        Raises:
            InputError: no layer was added.
            OSError: the disk is full or not writable; `path` is as it was.
        """
        if not self._layers:
            raise InputError("Nothing is left of the adapters, so there is nothing to save.")
        adapter = AdapterFile(self._arch, self._layers, dict(metadata))
        self._file.flush()
        tensors = {name: self._mapped(*place) for name, place in self._places.items()}
        write_tensors(path, tensors, metadata_of(adapter, path, self._dtype))

    def close(self) -> None:
        """Let go of the temporary file."""
        self._file.close()

    def _put(self, name: str, tensor: Tensor) -> None:
        position = self._file.seek(0, 2)
        position = self._file.seek(-(-position // _ALIGNED) * _ALIGNED)
        self._file.write(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
        self._places[name] = (position, tuple(tensor.shape))

    def _mapped(self, position: int, shape: tuple[int, ...]) -> Tensor:
        """A window on the temporary file: pages of it are in memory only while they are used."""
        dtype = FLOATS[self._dtype]
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        window = np.memmap(self._file, np.uint8, "r+", position, (size,))
        return torch.from_numpy(window).view(dtype).reshape(shape)


def _each(factors: Factors, device: torch.device, dtype: torch.dtype) -> Factors:
    """The same factors with their tensors there and so."""
    if isinstance(factors, FullFactors):
        return FullFactors(factors.diff.to(device, dtype))
    assert isinstance(factors, LoRAFactors)
    down, up = (tensor.to(device, dtype) for tensor in (factors.down, factors.up))
    if isinstance(factors, DoRAFactors):
        return replace(factors, down=down, up=up, magnitude=factors.magnitude.to(device, dtype))
    return replace(factors, down=down, up=up)
