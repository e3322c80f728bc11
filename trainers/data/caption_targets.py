"""Which file a new caption of a picture is written to. No torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from trainers.data.caption_files import SIDECAR_ENDINGS, sidecar_names
from trainers.data.names import ending, without_ending
from trainers.data.scan import Found


@dataclass(frozen=True, slots=True)
class Target:
    """Where a picture's caption goes.

    Attributes:
        name: the file, within the folder, with `/`.
        is_own: it is there, and it is this picture's alone.
        source: where the picture's present caption is from; empty where it has none.
    """

    name: str
    is_own: bool
    source: str


class CaptionTargets:
    """The targets of a folder's pictures.

    A picture's own caption file is kept. Where there is none it is `a.txt`, or `a.png.txt` where
    another picture's name differs in its ending only; a caption out of a table, or of a file that
    two pictures share, goes into `a.png.txt`, which is read before those.
    """

    def __init__(self, found: Found, new_ending: str = SIDECAR_ENDINGS[0]) -> None:
        self._ending = new_ending
        self._sources = {name: origin.captions_from for name, origin in found.origins.items()}
        self._stems = Counter(without_ending(picture.name) for picture in found.pictures)
        self._claims = Counter(self._sources.values())

    def of(self, name: str) -> Target:
        """The target of the picture `name`."""
        source = self._sources[name]
        lowered = without_ending(source) + ending(source).lower()  # a.TXT is found as a.txt
        if self._claims[source] == 1 and lowered in sidecar_names(name):
            return Target(source, True, source)
        if source or self._stems[without_ending(name)] > 1:
            return Target(name + self._ending, False, source)
        return Target(without_ending(name) + self._ending, False, source)
