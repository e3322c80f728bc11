"""Is it the character *in* the ink style? A score of its own.

The strict likeness refuses ink by intent, so it can't judge a mix. Here the picture must pass as
an ink drawing, and what the line encloses must have the character's body and most of its parts.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from .character import labels_of, part_shares
from .ink import Drawing, read_drawing
from .pixels import pixels_of

MIN_PARTS = 6  # of seven; the line eats into the smaller ones
PART_SHARE = 0.4
NEEDED = ("body",)


@dataclass(frozen=True)
class Mix:
    """Both halves of a composition."""

    drawing: Drawing
    parts: dict[str, float]

    @property
    def character(self) -> bool:
        """The inside has the body and at least MIN_PARTS parts."""
        found = [name for name, share in self.parts.items() if share >= PART_SHARE]
        return len(found) >= MIN_PARTS and all(name in found for name in NEEDED)

    @property
    def strict(self) -> bool:
        """Both at once."""
        return self.drawing.strict and self.character


def read_mix(picture: Image.Image, asked_background: str) -> Mix:
    """Read a picture as the character in ink on `asked_background`."""
    drawing = read_drawing(picture, asked_background)
    return Mix(drawing, part_shares(labels_of(pixels_of(picture)), drawing.inside))
