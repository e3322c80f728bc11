"""Find a dataset's pictures and captions. No torch, and no decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_diffusion.errors import InputError, printable
from trainers.data.captions import read_caption

PICTURE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
MAX_ENTRIES = 200_000


@dataclass(frozen=True)
class Picture:
    """One picture on disk and what it shows.

    Attributes:
        path: the file.
        caption: the prompt it is trained with.
        is_class: a prior-preservation picture, not an instance.
    """

    path: Path
    caption: str
    is_class: bool = False


def picture_files(folder: Path) -> list[Path]:
    """Pictures directly in `folder`, by name; hidden files are left out.

    Raises:
        InputError: no such folder, or unreadable.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda p: p.name)
    except FileNotFoundError:
        raise InputError(
            f"{printable(folder)}: there is no such folder. Check data.folder."
        ) from None
    except NotADirectoryError:
        raise InputError(
            f"{printable(folder)}: is a file. data.folder takes a folder of pictures."
        ) from None
    except OSError as error:
        raise InputError(f"{printable(folder)}: can't be read ({error.strerror}).") from None
    return [
        path
        for path in entries[:MAX_ENTRIES]
        if path.suffix.lower() in PICTURE_ENDINGS
        and not path.name.startswith(".")
        and path.is_file()
    ]


def scan(folder: Path, *, default_caption: str | None, trigger: str | None = None) -> list[Picture]:
    """Every picture of `folder` with its caption.

    Args:
        default_caption: for pictures without a caption file; None makes that an error.
        trigger: put before captions that lack it.

    Raises:
        InputError: no pictures, two pictures that share one caption file, or an unreadable caption.
    """
    files = picture_files(folder)
    if not files:
        endings = " ".join(sorted(PICTURE_ENDINGS))
        raise InputError(
            f"{printable(folder)}: has no pictures ({endings}). Point data.folder at the folder "
            "that holds them directly."
        )
    _refuse_shared_stems(files)
    return [Picture(path, read_caption(path, default_caption, trigger)) for path in files]


def _refuse_shared_stems(files: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in files:
        other = seen.setdefault(path.stem, path)
        if other is not path and any(path.with_suffix(e).exists() for e in (".txt", ".caption")):
            raise InputError(
                f"{printable(other)} and {printable(path.name)} share one caption file. Rename "
                "one picture and give it a caption of its own."
            )
