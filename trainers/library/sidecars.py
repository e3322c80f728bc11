"""Files that other programs keep beside `name.safetensors`. No torch.

| file | of | holds |
| --- | --- | --- |
| `name.json` | A1111, Forge; InvokeAI reads some | activation and negative text, weight, notes |
| `name.civitai.info` | helpers that know CivitAI | the site's record of the version |
| `name.txt` | A1111 | a description |
| `name.preview.png`, `name.png`, … | A1111, Forge | the picture on the card |

All of it is untrusted text and comes out printable and bounded. Fields that are not known here stay
as they are when a file is written.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from lora_diffusion.files import replace_atomically, write_text
from lora_diffusion.formats.hash import FileHashes
from lora_diffusion.formats.summary import MAX_TEXT, MAX_TRIGGERS, clean

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_MAX_BYTES = 4 << 20
_TAGS = re.compile(r"<[^<>]*>")
# Ours -> A1111's name of it.
_FIELDS = {
    "activation_text": "activation text",
    "negative_text": "negative text",
    "base": "sd version",
    "description": "description",
    "notes": "notes",
}
_WEIGHT = "preferred weight"
# What A1111's card editor offers.
_VERSIONS = {"sd15": "SD1", "sd21": "SD2", "sdxl": "SDXL"}
_CIVITAI_BASES = {"sd15": "SD 1.5", "sd21": "SD 2.1", "sdxl": "SDXL 1.0"}


@dataclass(frozen=True)
class Sidecar:
    """What is told beside an adapter; empty or None where nothing is.

    Attributes:
        activation_text: the words that call it up.
        preferred_weight: the weight to begin with.
        negative_text, description, notes: free text.
        base: the base as told there.
        title: the model's name on CivitAI.
        preview: the picture beside it.
    """

    activation_text: str = ""
    preferred_weight: float | None = None
    negative_text: str = ""
    description: str = ""
    notes: str = ""
    base: str = ""
    title: str = ""
    preview: Path | None = None


def read(adapter: Path) -> Sidecar:
    """What lies beside the file `adapter`. Files that can't be read count as absent."""
    own, site = _object(_beside(adapter, ".json")), _object(_beside(adapter, ".civitai.info"))
    told = {ours: _text(own.get(theirs)) for ours, theirs in _FIELDS.items()}
    words = site.get("trainedWords")
    trained = [_text(word) for word in words[:MAX_TRIGGERS]] if isinstance(words, list) else []
    model = site.get("model") if isinstance(site.get("model"), dict) else {}
    return Sidecar(
        activation_text=told["activation_text"] or ", ".join(filter(None, trained)),
        preferred_weight=_number(own.get(_WEIGHT)),
        negative_text=told["negative_text"],
        description=told["description"]
        or _plain_text(_beside(adapter, ".txt"))
        or _text(_TAGS.sub(" ", str(site.get("description") or ""))),
        notes=told["notes"],
        base=told["base"] or _text(site.get("baseModel")),
        title=_text(model.get("name") if isinstance(model, dict) else None),
        preview=preview_of(adapter),
    )


def preview_of(adapter: Path) -> Path | None:
    """The picture that cards show, A1111's own spelling first."""
    names = [adapter.stem + middle + end for middle in (".preview", "") for end in _PICTURES]
    return next((path for name in names if (path := adapter.with_name(name)).is_file()), None)


def stamp(adapter: Path) -> str:
    """Changes whenever a file beside `adapter` does."""
    found = []
    for ending in (".json", ".civitai.info", ".txt"):
        path = _beside(adapter, ending)
        if path.is_file():
            found.append(f"{ending}{path.stat().st_mtime_ns}")
    preview = preview_of(adapter)
    if preview is not None:
        found.append(f"{preview.name}{preview.stat().st_mtime_ns}")
    return " ".join(found)


def write_card(adapter: Path, changes: Mapping[str, Any], arch: str | None = None) -> Path:
    """Write `name.json`, as A1111's card editor does; what is there and not named stays.

    Args:
        changes: fields of `Sidecar` (all but `title` and `preview`) and their new values.
        arch: sets `sd version` where it is not told yet.

    Raises:
        InputError: an unknown field, or a file there that is no card.
        OSError: the disk is full or not writable.
    """
    path = _beside(adapter, ".json")
    told = _own(path)
    for name, value in changes.items():
        if name == "preferred_weight":
            told[_WEIGHT] = float(value or 0.0)
        elif name in _FIELDS:
            told[_FIELDS[name]] = str(value)
        else:
            raise InputError(f"A card has no field '{printable(name, 40)}'.")
    if arch in _VERSIONS:
        told.setdefault(_FIELDS["base"], _VERSIONS[arch])
    write_text(path, json.dumps(told, indent=4, ensure_ascii=False) + "\n")
    return path


def write_civitai_info(
    adapter: Path, title: str, trigger_words: tuple[str, ...], arch: str | None, hashes: FileHashes
) -> Path:
    """Write `name.civitai.info` with what the site would tell; what is there stays.

    Raises:
        InputError: a file there that is no such record.
        OSError: the disk is full or not writable.
    """
    path = _beside(adapter, ".civitai.info")
    told = _own(path)
    told.setdefault("name", adapter.stem)
    told.setdefault("model", {"name": title or adapter.stem, "type": "LORA"})
    told.setdefault("baseModel", _CIVITAI_BASES.get(arch or "", "Other"))
    told.setdefault("trainedWords", list(trigger_words))
    shown = {
        "SHA256": hashes.sha256.upper(),
        "AutoV2": hashes.autov2.upper(),
        "AutoV3": hashes.autov3.upper(),
    }
    told.setdefault("files", [{"name": adapter.name, "type": "Model", "hashes": shown}])
    write_text(path, json.dumps(told, indent=4, ensure_ascii=False) + "\n")
    return path


def write_preview(adapter: Path, picture: str | Path) -> Path:
    """Put a picture beside the adapter as `name.preview.png`.

    Args:
        picture: a file, or a data URL as `Summary.thumbnail` has it.

    Raises:
        InputError: it is no picture.
        OSError: the disk is full or not writable.
    """
    from PIL import Image

    path = adapter.with_name(f"{adapter.stem}.preview.png")
    is_url = isinstance(picture, str) and picture.startswith("data:")
    source = io.BytesIO(base64.b64decode(str(picture).partition(",")[2])) if is_url else picture
    try:
        with Image.open(source) as opened:
            shown = opened.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        name = adapter.name if is_url else Path(picture).name
        raise InputError(
            f"{printable(name)}: has no picture that can be read ({printable(error, 80)})."
        ) from None
    replace_atomically(path, lambda beside: shown.save(beside, "PNG"))
    return path


def _beside(adapter: Path, ending: str) -> Path:
    return adapter.with_name(adapter.stem + ending)


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _own(path: Path) -> dict[str, Any]:
    """What a file to be written over holds.

    Raises:
        InputError: it is something else, which would be lost.
    """
    found = _object(path)
    if not found and path.exists() and path.stat().st_size > 2:
        raise InputError(
            f"{printable(path.name)}: is no card of this kind and is left alone. Move it away."
        )
    return found


def _plain_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return ""
        return clean(path.read_text(encoding="utf-8-sig"), MAX_TEXT)
    except (OSError, UnicodeDecodeError):
        return ""


def _text(value: object) -> str:
    return clean(value, MAX_TEXT) if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    """A weight; A1111 writes 0 for none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < abs(value) <= 100 else None  # type: ignore[arg-type]
