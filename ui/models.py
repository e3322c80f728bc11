"""Base models that the form offers: the bundled one and what lies in `--models`."""

from __future__ import annotations

from pathlib import Path

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable

DEMO_BASE = "bundled:demo_base"
_DEPTH = 2
_MAX_OFFERED = 200
_CHECKPOINT_ENDINGS = (".safetensors", ".ckpt")
_CHECKPOINT_BYTES = 100_000_000  # a smaller file is an adapter, not a base


def offered(models: Path | None) -> list[tuple[str, str]]:
    """(label, location) of each base: diffusers folders and checkpoints, by name."""
    found = [("Demo base (comes with the studio)", DEMO_BASE)]
    if models is None or not models.is_dir():
        return found
    for path in sorted(_candidates(models)):
        label = path.relative_to(models).with_suffix("" if path.is_file() else path.suffix)
        found.append((printable(label, 80), str(path)))
    return found[:_MAX_OFFERED]


def check_base(location: str) -> None:
    """Refuse a base that is not there. A hub id (`owner/name`) is taken at its word.

    Raises:
        InputError: empty, or a path to nothing.
    """
    text = location.strip()
    if not text:
        raise InputError("Choose a base model.")
    path = bundled.resolve(text)
    if path.exists():
        return
    is_hub_id = text.count("/") == 1 and not text.startswith((".", "/", "~"))
    if not is_hub_id:
        raise InputError(f"{printable(text)}: there is no such folder or file.")


def _candidates(models: Path) -> list[Path]:
    found = []
    for depth in range(1, _DEPTH + 1):
        for path in models.glob("/".join("*" * depth)):
            if path.name.startswith("."):
                continue
            is_folder = path.is_dir() and (path / "model_index.json").is_file()
            is_checkpoint = (
                path.suffix in _CHECKPOINT_ENDINGS
                and path.is_file()
                and path.stat().st_size >= _CHECKPOINT_BYTES
                and not any((parent / "model_index.json").exists() for parent in path.parents[:2])
            )
            if is_folder or is_checkpoint:
                found.append(path)
    return found
