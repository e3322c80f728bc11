"""What can be composed: adapters of finished runs, the copies they saved, and the library folder.

A card's id is a name, never a path: only ids of adapters that are offered find anything.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_diffusion.consumers import Target, of_base, verify
from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats.describe import Description, describe
from trainers.jobs import RunDir
from trainers.library.cards import Card
from trainers.spec import JobSpec
from ui import words
from ui.compose.library import Shown
from ui.context import Context
from ui.follow import Follower

THUMBNAIL_PX = 160
_KINDS = {
    "lora": "LoRA", "locon": "LoCon", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr",
    "full": "full differences",
}  # fmt: skip
_ARCHES = {"sd15": "SD 1.x", "sd21": "SD 2.x", "sdxl": "SDXL"}

Json = dict[str, Any]


@dataclass(frozen=True)
class Adapter:
    """One file that can be weighed.

    Attributes:
        id: what the page calls it.
        path: the file.
        title: what people call it.
        step: of a copy saved on the way; None for a final one.
        spec: the settings of the run that made it; None for a file from elsewhere.
        prompts: what the run's previews were drawn with.
        thumbnail: a picture that shows it.
        card: what the library knows of it; None for a run's.
    """

    id: str
    path: Path
    title: str
    step: int | None = None
    spec: JobSpec | None = None
    prompts: tuple[str, ...] = ()
    thumbnail: Path | None = None
    card: Card | None = None


class Cards:
    """Finds adapters and remembers what their files say, by name, size and time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.library = Shown(context.adapters, context.shelf, context.drawer.scratch())
        self._lock = threading.Lock()
        self._told: dict[tuple[str, int, int], Description | str] = {}
        self._fits: dict[tuple[str, int, int, str], str] = {}
        self._targets: dict[str, Target] = {}

    def all(self) -> list[Adapter]:
        """Every adapter: of runs, newest first, each final one before its copies; then files."""
        found: list[Adapter] = []
        for follower in self._context.followers.all():
            found += _of_run(follower)
        return found + self._of_folder()

    def find(self, name: object) -> Adapter:
        """The adapter that the page calls `name`.

        Raises:
            InputError: there is none (any more).
        """
        for adapter in self.all():
            if adapter.id == name:
                return adapter
        raise InputError("That adapter is gone. Choose another one.")

    def card(self, adapter: Adapter, base: str) -> Json:
        """What the rail shows; `problem` says why it can't be used with `base`."""
        if adapter.card is not None:
            return self._library_card(adapter, adapter.card, base)
        told = self._describe(adapter.path)
        shared = {
            "id": adapter.id,
            "title": adapter.title,
            "step": adapter.step,
            "prompts": list(adapter.prompts),
            "thumbnail": adapter.thumbnail
            and self._context.shelf.picture(adapter.thumbnail, THUMBNAIL_PX),
        }
        if isinstance(told, str):
            return {**shared, "line": "", "trigger": "", "arch": None, "problem": told}
        trigger = adapter.spec.data.trigger if adapter.spec else None
        triggers = [trigger] if trigger else list(told.summary.trigger_words)
        return {
            **shared,
            **_facts(told.arch, told.kind, told.rank, triggers),
            "problem": self._misfit(adapter.path, base, told.arch) if base else "",
        }

    def _library_card(self, adapter: Adapter, card: Card, base: str) -> Json:
        tags = " ".join(tag for tag, _ in card.tags)
        trigger = next(iter(card.trigger_words), "")
        captions = [tag for tag, _ in card.tags if trigger and trigger in tag and tag != trigger]
        problem = card.broken or (self._misfit(adapter.path, base, card.arch) if base else "")
        return {
            "id": adapter.id,
            "title": adapter.title,
            "step": None,
            "prompts": [printable(caption, 300) for caption in captions[:1]],
            "thumbnail": self.library.thumbnail(card, THUMBNAIL_PX),
            **_facts(card.arch, card.kind, card.rank, card.trigger_words),
            "words": printable(f"{tags} {card.base} {card.description}", 1000),
            "problem": printable(problem, 300),
        }

    def _describe(self, path: Path) -> Description | str:
        """What the file is, or in a sentence why it can't be used."""
        key = _stamp(path)
        with self._lock:
            known = self._told.get(key)
        if known is None:
            try:
                known = describe(path)
            except (InputError, OSError) as error:
                known = printable(error, 300)
            with self._lock:
                self._told[key] = known
        return known

    def _misfit(self, path: Path, base: str, arch: str | None) -> str:
        key = (*_stamp(path), base)
        if key not in self._fits:
            self._fits[key] = self._compare(path, base, arch)
        return self._fits[key]

    def _compare(self, path: Path, base: str, arch: str | None) -> str:
        try:
            if base not in self._targets:
                self._targets[base] = of_base(base)
            target = self._targets[base]
            if arch and arch != target.arch:
                ours, theirs = (_ARCHES.get(a, a) for a in (target.arch, arch))
                return f"Made for {theirs}; this base is {ours}."
            misfits = verify(path, target).misfits
        except (InputError, OSError) as error:
            return printable(error, 300)
        if not misfits:
            return ""
        return f"Made for another size of model: {words.counted(len(misfits), 'layer')} do not fit."

    def _of_folder(self) -> list[Adapter]:
        self.library.update()
        return [
            Adapter(
                id=f"file/{card.file}",
                path=self.library.path(card),
                title=printable(card.title, 60),
                card=card,
            )
            for card in self.library.cards()
        ]


def _facts(arch: str | None, kind: str, rank: int | None, triggers: Iterable[str]) -> Json:
    facts = [_ARCHES.get(arch or "", "unknown base"), _KINDS.get(kind, kind)]
    facts += [f"rank {rank}"] if rank else []
    return {
        "line": " · ".join(filter(None, facts)),
        "trigger": printable(", ".join(list(triggers)[:3]), 60),
        "arch": arch,
    }


def _of_run(follower: Follower) -> list[Adapter]:
    run, spec = follower.run, follower.spec()
    if spec is None:
        return []
    name = follower.title
    prompts = prompts_of(follower)
    found = []
    final = run.adapter_file(spec)
    if final.is_file() and not final.is_symlink():
        last = max(follower.progress.previews, default=None)
        shown = _preview(run, follower, last)
        found.append(Adapter(f"run/{follower.name}", final, name, None, spec, prompts, shown))
    for step in sorted(follower.progress.exports, reverse=True):
        path = run.named(follower.progress.exports[step])
        if path is not None and path.parent.name == "exports":
            found.append(
                Adapter(
                    id=f"run/{follower.name}/{step}",
                    path=path,
                    title=f"{name}, step {step:,}",
                    step=step,
                    spec=spec,
                    prompts=prompts,
                    thumbnail=_preview(run, follower, step),
                )
            )
    return found


def prompts_of(follower: Follower) -> tuple[str, ...]:
    """What the run's previews were drawn with."""
    pictures = next(iter(follower.progress.previews.values()), [])
    return tuple(printable(p["prompt"], 300) for p in pictures if isinstance(p.get("prompt"), str))


def _preview(run: RunDir, follower: Follower, step: int | None) -> Path | None:
    pictures = follower.progress.previews.get(step, []) if step is not None else []
    return run.named(pictures[0].get("file")) if pictures else None


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (str(path), 0, 0)
    return (str(path), stat.st_mtime_ns, stat.st_size)
