"""Adapters on their way between disk, RAM and the device, each with a budget of bytes.

A file is read once into RAM, in its own number format, and widened to fp32 on the device of the
base. What has not been used for longest leaves first (least recently used); what is in use never
does. An adapter that has left RAM is read again, and must then be the file that it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats import load_adapter
from lora_diffusion.formats.header import refuse
from lora_diffusion.formats.reading import PEFT_CONFIG, lay_out_opened, open_adapter
from lora_diffusion.injection import AdaptableLayer, Parts, adaptable_layers
from lora_diffusion.keys import LayerKey
from lora_diffusion.multi.lru import ByteLRU, NoRoom
from lora_diffusion.variants import Adapter, from_factors

_ITEM_BYTES = 4  # adapters work in fp32
_CHUNK_BYTES = 1 << 20

# An adapter on the device, ready to use: its modules, frozen, fp32.
Page = Mapping[LayerKey, Adapter]


@dataclass
class Moves:
    """How often adapters were moved.

    Attributes:
        reads: from disk into RAM.
        copies: from RAM to the device.
    """

    reads: int = 0
    copies: int = 0


@dataclass
class _Source:
    """Where an adapter is read from.

    Attributes:
        stamps: (path, size, time of change, inode) of each of its files, as last seen.
        digest: SHA-256 of their bytes, from the first reading on.
    """

    path: Path
    files: tuple[Path, ...]
    stamps: tuple[tuple[int, ...], ...]
    digest: str | None = None


class AdapterPages:
    """Adapters by name for one base, as many as you like; memory holds what the budgets allow.

    Args:
        parts: part name (`unet`, …) -> model. Adapters go to where its layers are.
        device_bytes: for adapters on the device, in fp32. Those of one batch must fit at once.
        ram_bytes: for adapters as they are in their files. On a CPU the device is RAM already,
            so 0 saves memory there; whatever leaves the device is then read again.
    """

    def __init__(self, parts: Parts, *, device_bytes: int, ram_bytes: int) -> None:
        self.moves = Moves()
        self._base = adaptable_layers(parts)
        self._sources: dict[str, _Source] = {}
        self._device: ByteLRU[str, Page] = ByteLRU(device_bytes)
        self._ram: ByteLRU[str, AdapterFile] = ByteLRU(ram_bytes)

    @property
    def base(self) -> Mapping[LayerKey, AdaptableLayer]:
        """The layers of the base that adapters go on."""
        return self._base

    @property
    def names(self) -> list[str]:
        """All that were added, in that order."""
        return list(self._sources)

    @property
    def device_names(self) -> list[str]:
        """Those on the device, least recently used first."""
        return self._device.keys()

    @property
    def ram_names(self) -> list[str]:
        """Those in RAM, least recently used first."""
        return self._ram.keys()

    @property
    def device_bytes(self) -> int:
        """Bytes of the numbers on the device, exactly."""
        return self._device.used_bytes

    @property
    def ram_bytes(self) -> int:
        """Bytes of the numbers in RAM, exactly."""
        return self._ram.used_bytes

    def add(self, name: str, path: str | Path) -> None:
        """Make an adapter known; its header is read and checked, its numbers are not.

        A name that is known already gets the new file.

        Raises:
            AdapterFileError: it is no adapter, or does not fit the base.
            InputError: the adapter of that name is in use.
        """
        opened = open_adapter(path)
        lay_out_opened(opened, {key: layer.shape for key, layer in self._base.items()})
        if self._device.is_pinned(name):
            raise InputError(f"The adapter '{printable(name)}' is in use. Put it aside first.")
        self._device.discard(name)
        self._ram.discard(name)
        weights = [piece.header.path for piece in opened.pieces]
        files = (*weights, *(c for p in weights if (c := p.with_name(PEFT_CONFIG)).is_file()))
        self._sources[name] = _Source(Path(path), files, _stamps(files))

    @contextmanager
    def use(self, names: Iterable[str]) -> Iterator[dict[str, Page]]:
        """These adapters on the device, where they stay while this is entered.

        Raises:
            InputError: an unknown name, or more than the device's budget at once.
            AdapterFileError: a file can't be read, or is not what it was.
        """
        wanted = list(dict.fromkeys(names))
        pinned: list[str] = []
        try:
            for name in wanted:
                self._check_unchanged(name)
            # those that are there are pinned first, so that the others don't take their place
            for name in sorted(wanted, key=lambda name: name not in self._device):
                self._bring(name)
                self._device.pin(name)
                pinned.append(name)
            yield {name: self._device.value(name) for name in wanted}
        finally:
            for name in pinned:
                self._device.unpin(name)

    def _bring(self, name: str) -> None:
        """Have an adapter on the device, as the most recently used."""
        if self._device.get(name) is not None:
            return
        file = self._file(name)
        size = _ITEM_BYTES * sum(t.numel() for t in _tensors(file))
        try:
            self._device.make_room(size)
        except NoRoom as full:
            raise InputError(
                f"The adapter '{printable(name)}' takes {_mb(size)}, and {_mb(full.pinned_bytes)} "
                f"of the {_mb(full.budget_bytes)} for adapters on the device are in use. Use fewer "
                "at once, or raise the budget."
            ) from None
        self._device.put(name, self._placed(file), size)
        self.moves.copies += 1

    def _placed(self, file: AdapterFile) -> Page:
        layers: dict[LayerKey, Adapter] = {}
        for key, factors in file.layers.items():
            base = self._base[key]
            adapter = from_factors(base.module, key, factors.shaped(base.shape))
            layers[key] = adapter.eval().requires_grad_(False)
        return layers

    def _file(self, name: str) -> AdapterFile:
        file = self._ram.get(name)
        if file is not None:
            return file
        source = self._sources[name]
        digest = _digest(source.files)
        if source.digest not in (None, digest):
            _refuse_changed(name, source)
        shapes = {key: layer.shape for key, layer in self._base.items()}
        file = load_adapter(source.path, shapes)
        source.digest = digest
        self._check_unchanged(name)  # since it was hashed
        self.moves.reads += 1
        size = sum(t.nbytes for t in _tensors(file))
        if size <= self._ram.budget_bytes:
            self._ram.put(name, file, size)
        return file

    def _check_unchanged(self, name: str) -> None:
        """Raise unless the files are what they were; touching them alone is no change."""
        source = self._sources.get(name)
        if source is None:
            known = ", ".join(map(printable, self.names)) or "none"
            raise InputError(f"There is no adapter '{printable(name)}'. Known: {known}.")
        stamps = _stamps(source.files)
        if stamps == source.stamps:
            return
        if source.digest is not None and _digest(source.files) != source.digest:
            _refuse_changed(name, source)
        source.stamps = stamps


def _tensors(file: AdapterFile) -> Iterator[Tensor]:
    for factors in file.layers.values():
        yield from factors.tensors().values()


def _refuse_changed(name: str, source: _Source) -> None:
    refuse(
        source.path,
        f"it has changed since '{printable(name)}' was loaded from it",
        "Add it again to use the new file.",
    )


def _stamps(files: Iterable[Path]) -> tuple[tuple[int, ...], ...]:
    found = []
    for path in files:
        try:
            status = path.stat()
        except OSError as error:
            refuse(path, f"it cannot be read ({error.strerror})")
        found.append((status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)


def _digest(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    total.update(chunk)
        except OSError as error:
            refuse(path, f"it cannot be read ({error.strerror})")
    return total.hexdigest()


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
