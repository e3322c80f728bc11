"""Files that come with the project: `bundled:NAME` in a setting means this folder."""

from __future__ import annotations

from pathlib import Path

from lora_diffusion.errors import InputError, printable

PREFIX = "bundled:"
_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent


def root(kind: str) -> Path:
    """The folder `assets` or `presets`: beside the package in a checkout, inside it in a wheel."""
    for candidate in (_CHECKOUT / kind, _PACKAGE / "_bundled" / kind):
        if candidate.is_dir():
            return candidate
    raise InputError(
        f"The bundled folder '{kind}' is missing from this installation. Reinstall lora-diffusion."
    )


def resolve(location: str) -> Path:
    """`bundled:demo_base` as a folder under the bundled assets; anything else as a plain path.

    Raises:
        InputError: no such bundled name.
    """
    if not location.startswith(PREFIX):
        return Path(location).expanduser()
    name = location.removeprefix(PREFIX)
    assets = root("assets")
    known = sorted(p.name for p in assets.iterdir() if p.is_dir() and not _is_code(p))
    if name not in known:
        raise InputError(
            f"'{printable(location)}' is not bundled. Bundled are: "
            + ", ".join(PREFIX + k for k in known)
        )
    return assets / name


def _is_code(folder: Path) -> bool:
    return folder.name.startswith((".", "_")) or (folder / "__init__.py").exists()
