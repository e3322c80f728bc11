"""Which words a visit to a picture is captioned with: chosen, drawn, shuffled, dropped. No torch.

Everything follows from (seed, picture, number of the draw) alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lora_diffusion.errors import InputError, printable
from trainers.data.captions import has_word

_CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
_NAMED = re.compile(r"__([\w.-]+?)__")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_MAX_DRAWS = 100
"""Wildcards in wildcards are followed so often, which ends those that name themselves."""


@dataclass(frozen=True)
class CaptionRules:
    """What may be done to a caption.

    Attributes:
        parts: what is shuffled and dropped: tags between commas, or sentences.
        shuffle: put the parts in a new order.
        keep_first: parts that stay where they are and are never dropped.
        drop_part: chance of each other part to be left out.
        wildcards: draw one of `{a|b}`, and for `__name__` a line of `lines["name"]`.
        lines: name -> its lines.
    """

    parts: Literal["tags", "sentences"] = "tags"
    shuffle: bool = False
    keep_first: int = 0
    drop_part: float = 0.0
    wildcards: bool = False
    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_endless(self) -> bool:
        """Whether there are more captions than a picture's own."""
        return self.shuffle or self.drop_part > 0 or self.wildcards


def choose(
    captions: Sequence[str],
    rules: CaptionRules,
    trigger: str | None,
    seed: int,
    picture: str,
    number: int,
) -> str:
    """Draw number `number` of a picture's caption.

    Args:
        captions: at least one; a draw takes one of them.
        trigger: a part with this word in it is never dropped.
        picture: what tells it from others.

    Raises:
        InputError: a wildcard that has no file.
    """
    if len(captions) == 1 and not rules.is_endless:
        return captions[0]
    draw = random.Random(f"caption\x1f{seed}\x1f{picture}\x1f{number}")
    caption = captions[draw.randrange(len(captions))]
    if rules.wildcards:
        caption = _draw_wildcards(caption, rules.lines, draw)
    if not (rules.shuffle or rules.drop_part):
        return caption
    parts = split(caption, rules.parts)
    kept, loose = parts[: rules.keep_first], parts[rules.keep_first :]
    if rules.drop_part:
        # One draw for each part, protected or not, so that the trigger's place changes no other.
        loose = [
            part
            for part in loose
            if draw.random() >= rules.drop_part or (trigger and has_word(part, trigger))
        ]
    if rules.shuffle:
        draw.shuffle(loose)
    return (", " if rules.parts == "tags" else " ").join(kept + loose)


def split(caption: str, parts: Literal["tags", "sentences"]) -> list[str]:
    """The tags or sentences of a caption, none of them empty."""
    pieces = caption.split(",") if parts == "tags" else _SENTENCE_END.split(caption)
    return [piece.strip() for piece in pieces if piece.strip()]


def read_wildcards(folder: Path) -> dict[str, tuple[str, ...]]:
    """Name -> lines, of each `NAME.txt` in `folder`; empty lines and those after # are left out.

    Raises:
        InputError: no such folder, or a file that is not UTF-8 or has no lines.
    """
    if not folder.is_dir():
        raise InputError(
            f"{printable(folder)}: there is no such folder. Check data.wildcard_folder."
        )
    found = {}
    for path in sorted(folder.glob("*.txt")):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{printable(path)}: can't be read as UTF-8 text ({printable(error, 60)})."
            ) from None
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        found[path.stem] = tuple(line for line in lines if line)
        if not found[path.stem]:
            raise InputError(f"{printable(path)}: has no lines to draw from. Add some.")
    return found


def _draw_wildcards(caption: str, lines: Mapping[str, tuple[str, ...]], draw: random.Random) -> str:
    def option(match: re.Match[str]) -> str:
        options: list[str] = match[1].split("|")
        return draw.choice(options).strip()

    def line(match: re.Match[str]) -> str:
        if match[1] not in lines:
            raise InputError(
                f"The caption '{printable(caption, 80)}' asks for a line of "
                f"{printable(match[1])}.txt, which data.wildcard_folder does not have. Add it, or "
                "change the caption."
            )
        return draw.choice(lines[match[1]])

    for _ in range(_MAX_DRAWS):
        after = _NAMED.sub(line, _CHOICE.sub(option, caption))
        if after == caption:
            break
        caption = after
    return " ".join(caption.split())
