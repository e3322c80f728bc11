"""Captions as drafts: made one after another, written nowhere."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_diffusion.errors import InputError, printable
from trainers.data.captioners.plugin import Captioner, Shot
from trainers.data.captions import with_trigger
from trainers.data.decode import load_rgb


@dataclass(frozen=True)
class Finish:
    """What is added to every caption.

    Attributes:
        prefix, suffix: put before and after it as they are, maybe with a comma of their own.
        trigger: put before captions that lack it; empty puts nothing.
    """

    prefix: str = ""
    suffix: str = ""
    trigger: str = ""

    def apply(self, caption: str) -> str:
        """One line of text, without control characters."""
        whole = " ".join(f"{self.prefix}{caption}{self.suffix}".split())
        kept = "".join(c for c in whole if unicodedata.category(c)[0] != "C")
        return with_trigger(kept.strip(" ,"), self.trigger or None)


@dataclass(frozen=True)
class Draft:
    """A caption that waits for a decision, or the reason why there is none.

    Attributes:
        picture: the file.
        caption: the text; empty if there is a problem.
        problem: one line that names the picture and the cause.
    """

    picture: Path
    caption: str
    problem: str | None = None


def drafts(
    captioner: Captioner,
    pictures: Sequence[Path],
    *,
    batch: int,
    finish: Finish,
    cancelled: Callable[[], bool],
) -> Iterator[Draft]:
    """A draft a picture, in order of the batches; `cancelled` is asked between two batches.

    Closing the iterator cancels too.

    Raises:
        InputError: the captioner can't go on; earlier drafts stand.
    """
    for first in range(0, len(pictures), batch):
        if cancelled():
            return
        shots: list[tuple[Path, Shot]] = []
        for picture in pictures[first : first + batch]:
            try:
                image = load_rgb(picture)
            except InputError as error:
                yield Draft(picture, "", str(error))
                continue
            shots.append((picture, Shot(image, picture.name, picture.resolve().parent.name)))
        captions = captioner.caption([shot for _, shot in shots]) if shots else []
        for (picture, _), caption in zip(shots, captions, strict=True):
            if caption.strip():
                yield Draft(picture, finish.apply(caption))
            else:
                yield Draft(
                    picture, "", f"{printable(picture)}: the captioner has no words for it."
                )
