"""A file of settings in any dialect that is known: ours, sd-scripts' TOML, kohya_ss' JSON, or the
metadata of an adapter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from trainers.importing.adapter import settings_of
from trainers.importing.kohya import translate
from trainers.importing.kohya_datasets import translate_datasets
from trainers.layering import read_toml

_SD_SCRIPTS_MARKS = frozenset({"pretrained_model_name_or_path", "network_module", "network_dim"})


@dataclass(frozen=True)
class Imported:
    """Settings as one layer.

    Attributes:
        layer: section -> field -> value, as in our own files.
        notes: a sentence for each setting that could not be carried over; none for our own files.
    """

    layer: dict[str, Any]
    notes: tuple[str, ...] = ()


def read_config(path: Path) -> Imported:
    """The settings in `path`, whichever program wrote it.

    Raises:
        InputError: unreadable, or settings of no known program.
    """
    if path.suffix.lower() == ".safetensors":
        layer, notes = settings_of(path)
        return Imported(layer, tuple(notes))
    if path.suffix.lower() == ".json":
        return _from_flat(_read_json(path), path)
    found = read_toml(path)
    if "datasets" in found:
        layer, notes = translate_datasets(found)
        return Imported(layer, tuple(notes))
    flat = _flattened(found)
    if flat.keys() & _SD_SCRIPTS_MARKS:
        return _from_flat(flat, path)
    return Imported(found)


def _from_flat(flat: dict[str, Any], path: Path) -> Imported:
    layer, notes = translate(flat)
    other = flat.get("dataset_config")
    if other:
        inner = Path(str(other)).expanduser()
        beside = inner if inner.is_absolute() or inner.exists() else path.parent / inner
        data, more = translate_datasets(read_toml(beside))
        for section, values in data.items():
            layer[section] = {**layer.get(section, {}), **values}
        notes += more
    return Imported(layer, tuple(notes))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"{printable(path)}: can't be read ({error.strerror}). Check the path."
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"{printable(path)}: is not valid JSON ({printable(error, 80)}). Save it anew."
        ) from None
    if not isinstance(found, dict) or not found.keys() & (_SD_SCRIPTS_MARKS | {"LoRA_type"}):
        raise InputError(
            f"{printable(path)}: is not a configuration of kohya_ss. --config takes those, "
            "sd-scripts' TOML files and our own."
        )
    return found


def _flattened(found: dict[str, Any]) -> dict[str, Any]:
    """sd-scripts ignores the names of sections."""
    flat: dict[str, Any] = {}
    for name, value in found.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat
