"""Adapters into a base's own weights: W = W0 + sum of w_i * delta_i(W0), one tensor at a time.

The result has the base's layout, folder or single file, and its number formats. Every tensor that
no adapter changes keeps its bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lora_diffusion.algebra import wide
from lora_diffusion.composition.terms import (
    Ingredient,
    changed_layers,
    exact_sum,
    open_ingredients,
    relative_error,
    terms_of,
)
from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.layout import PICKLE_ENDINGS
from lora_diffusion.families.stored import Place, StoredBase, open_stored, stored_tensor
from lora_diffusion.files import replace_atomically
from lora_diffusion.formats.header import Header
from lora_diffusion.keys import LayerKey

BAKED_KEY = "lora_diffusion.baked"
_STALE = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")
_WEIGHT_ENDINGS = frozenset({".safetensors", ".msgpack", ".h5", ".onnx", *PICKLE_ENDINGS})
_COPY_BYTES = 8 << 20

OnLayer = Callable[[int, int], None]


@dataclass(frozen=True)
class BakedLayer:
    """What storing did to one layer.

    Attributes:
        key: the layer.
        error: Frobenius norm of (stored weight - exact weight) over that of the exact update; it
            comes from rounding to the base's number format alone.
    """

    key: LayerKey
    error: float


@dataclass(frozen=True)
class Baked:
    """What `bake` wrote.

    Attributes:
        layers: every layer that was changed.
        left_out: files of the base with weights that would contradict the baked ones.
    """

    layers: tuple[BakedLayer, ...]
    left_out: tuple[str, ...] = ()

    @property
    def max_error(self) -> float:
        return max((layer.error for layer in self.layers), default=0.0)


def bake(
    location: str | Path,
    adapters: Iterable[tuple[Path, Weights]],
    out: Path,
    *,
    on_layer: OnLayer | None = None,
) -> Baked:
    """Write the base at `location` with adapters in its weights.

    Args:
        out: a new folder if the base is one, else a file.
        on_layer: called with (layers done, of all).

    Raises:
        InputError: a base or an adapter that can't be used, `out` is in the way of something, or a
            weight that the base's number format cannot hold; nothing is left behind then.
        OSError: the disk is full or not writable; likewise.
    """
    base = open_stored(location)
    ingredients = open_ingredients(adapters, base.shapes())
    _check_out(base, out)
    work = _Work(base, ingredients, on_layer)
    if not base.path.is_dir():
        replace_atomically(out, lambda beside: work.write(base.headers[0], beside))
        return Baked(tuple(work.done))
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.tmp")
    if beside.exists():
        shutil.rmtree(beside)
    try:
        left_out = _copy_rest(base, beside)
        for header in base.headers:
            work.write(header, beside / header.path.relative_to(base.path))
        if out.exists():
            out.rmdir()  # it is empty
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Baked(tuple(work.done), left_out)


class _Work:
    """Rewrites weight files; counts the layers."""

    def __init__(
        self, base: StoredBase, ingredients: Sequence[Ingredient], on_layer: OnLayer | None
    ) -> None:
        self.done: list[BakedLayer] = []
        self._ingredients = ingredients
        self._on_layer = on_layer
        self._note = json.dumps([{"name": i.name, "weights": str(i.weights)} for i in ingredients])
        changed = changed_layers(ingredients)
        self._total = len(changed)
        # file -> tensor -> the layers in it
        self._tensors: dict[Path, dict[str, dict[LayerKey, Place]]] = {}
        for key in changed:
            place = base.places[key]
            tensors = self._tensors.setdefault(place.header.path, {})
            tensors.setdefault(place.name, {})[key] = place

    def write(self, header: Header, target: Path) -> None:
        """Copy a weight file, with its changed tensors in place of the base's."""
        changed = self._tensors.get(header.path, {})
        target.parent.mkdir(parents=True, exist_ok=True)
        with header.path.open("rb") as source, target.open("wb") as file:
            if not changed:
                shutil.copyfileobj(source, file, _COPY_BYTES)
                return
            file.write(_header_bytes(header, self._note))
            start = file.tell()
            source.seek(header.data_start)
            shutil.copyfileobj(source, file, _COPY_BYTES)
            for name, places in changed.items():
                tensor = self._baked(header, name, places)
                file.seek(start + header.tensors[name].start)
                file.write(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]

    def _baked(self, header: Header, name: str, places: Mapping[LayerKey, Place]) -> Tensor:
        """The tensor with its layers' updates, in its own dtype."""
        own = stored_tensor(header, name)
        total = wide(own).clone()
        updates = {}
        for key, place in places.items():
            updates[key] = exact_sum(terms_of(self._ingredients, key), place.within(own))
            place.within(total).add_(updates[key])
        stored = total.to(own.dtype)
        for key, place in places.items():
            found = place.within(stored)
            if not torch.isfinite(found).all():
                raise InputError(
                    f"Baking overflows {own.dtype} in layer {key}. Lower the weights, or give the "
                    "base in fp32 or bf16."
                )
            error = relative_error(found, place.within(total), updates[key])
            self.done.append(BakedLayer(key, error))
            if self._on_layer is not None:
                self._on_layer(len(self.done), self._total)
        return stored


def _check_out(base: StoredBase, out: Path) -> None:
    where = printable(out.name)
    if base.path.is_dir():
        if out.resolve() == base.path.resolve() or base.path.resolve() in out.resolve().parents:
            raise InputError(f"{where}: it is the base itself. Give a new folder.")
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise InputError(f"{where}: there is something already. Give a new folder.")
        return
    if out.is_dir() or out.suffix.lower() != ".safetensors":
        raise InputError(
            f"{where}: give a file name that ends in .safetensors, as the base's does."
        )
    if out.resolve() == base.path.resolve():
        raise InputError(f"{where}: it is the base itself. Give another file.")


def _copy_rest(base: StoredBase, target: Path) -> tuple[str, ...]:
    """Copy all of a folder but its weights; the weights that would be stale are named."""
    written = {header.path.resolve() for header in base.headers}
    parts = {key.part for key in base.places}
    left_out = []
    for file in sorted(base.path.rglob("*")):
        inside = file.relative_to(base.path)
        if not file.is_file() or file.resolve() in written or ".git" in inside.parts:
            continue
        is_stale = len(inside.parts) == 1 or inside.parts[0] in parts
        if file.suffix.lower() in _WEIGHT_ENDINGS and is_stale:
            left_out.append(inside.as_posix())
            continue
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / inside)
    return tuple(left_out)


def _header_bytes(header: Header, note: str) -> bytes:
    """The file's header with what was baked in it, and without hashes that no longer hold."""
    metadata = {key: text for key, text in header.metadata.items() if key not in _STALE}
    return header.start_with(metadata | {BAKED_KEY: note})
