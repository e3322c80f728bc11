"""Find a dataset's pictures and captions. No torch, and no decoding."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from lora_diffusion.errors import InputError, printable
from trainers.data.captions import SIDECAR_ENDINGS, read_caption
from trainers.data.source import Source

PICTURE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
MAX_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture on disk and what it shows.

    Attributes:
        path: the file, or the member of a tar shard; both open and read alike.
        captions: the prompts it is trained with, one or several, each with the trigger in it.
        is_class: a prior-preservation (regularisation) picture, not an instance.
        name: the file's path within its dataset, with `/`; unlike the stem it is unique there.
        repeats: how often an epoch shows it.
        weight: factor on its loss.
        subset: name of the part of the dataset that it belongs to; empty where there is one only.
        trigger: the trigger word of that part.
        mask: greyscale picture that says where the loss counts; None counts everywhere.
        size_px: (height, width) upright, once the header has been read.
        digest: SHA-256 of the file's bytes, in hexadecimal, once they have been read.
    """

    path: Source
    captions: tuple[str, ...]
    is_class: bool = False
    name: str = ""
    repeats: int = 1
    weight: float = 1.0
    subset: str = ""
    trigger: str | None = None
    mask: Path | None = None
    size_px: tuple[int, int] | None = None
    digest: str | None = None

    @property
    def caption(self) -> str:
        """The first caption."""
        return self.captions[0]


def list_pictures(folder: Path) -> list[Path]:
    """Pictures directly in `folder`, by name, maybe none; hidden files are left out.

    Raises:
        InputError: no such folder, unreadable, or with an absurd number of files.
    """
    try:
        entries = list(itertools.islice(folder.iterdir(), MAX_ENTRIES + 1))
    except (FileNotFoundError, ValueError):
        raise InputError(
            f"{printable(folder)}: there is no such folder. Check data.folder."
        ) from None
    except NotADirectoryError:
        raise InputError(
            f"{printable(folder)}: is a file. data.folder takes a folder of pictures."
        ) from None
    except OSError as error:
        raise InputError(f"{printable(folder)}: can't be read ({error.strerror}).") from None
    if len(entries) > MAX_ENTRIES:
        raise InputError(
            f"{printable(folder)}: holds more than {MAX_ENTRIES:,} files. Choose the folder that "
            "holds only the training pictures."
        )
    return sorted((path for path in entries if _is_picture(path)), key=lambda path: path.name)


def find_pictures(folder: Path) -> list[Path]:
    """As `list_pictures`, and at least one.

    Raises:
        InputError: also if there are none.
    """
    files = list_pictures(folder)
    if not files:
        endings = " ".join(sorted(PICTURE_ENDINGS))
        raise InputError(
            f"{printable(folder)}: has no pictures ({endings}). Point data.folder at the folder "
            "that holds them directly."
        )
    return files


def scan(folder: Path, *, default_caption: str | None, trigger: str | None = None) -> list[Picture]:
    """Every picture of `folder` with its caption.

    Args:
        default_caption: for pictures without a caption file; None makes that an error.
        trigger: put before captions that lack it.

    Raises:
        InputError: no pictures, two pictures that share one caption file, or an unreadable caption.
    """
    files = find_pictures(folder)
    _refuse_shared_stems(files)
    return [
        Picture(
            path,
            (read_caption(path, default_caption, trigger),),
            name=path.name,
            trigger=trigger,
        )
        for path in files
    ]


def _is_picture(path: Path) -> bool:
    return (
        path.suffix.lower() in PICTURE_ENDINGS and not path.name.startswith(".") and path.is_file()
    )


def _refuse_shared_stems(files: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in files:
        other = seen.setdefault(path.stem, path)
        if other is not path and any(path.with_suffix(e).exists() for e in SIDECAR_ENDINGS):
            raise InputError(
                f"{printable(other)} and {printable(path.name)} share one caption file. Rename "
                "one picture and give it a caption of its own."
            )
