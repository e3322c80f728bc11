"""What can be composed: adapters of finished runs, the copies they saved, and the library folder.

A card's id is a name, never a path: only ids of adapters that are offered find anything.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_diffusion.consumers import Target, of_base, verify
from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats.describe import Description, describe
from trainers.jobs import RunDir
from trainers.spec import JobSpec
from ui import words
from ui.context import Context
from ui.follow import Follower
from ui.run_view import inside

THUMBNAIL_PX = 160
_MAX_FILES = 500
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
    """

    id: str
    path: Path
    title: str
    step: int | None = None
    spec: JobSpec | None = None
    prompts: tuple[str, ...] = ()
    thumbnail: Path | None = None


class Cards:
    """Finds adapters and remembers what their files say, by name, size and time."""

    def __init__(self, context: Context) -> None:
        self._context = context
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
        arch = _ARCHES.get(told.arch or "", "unknown base")
        facts = [arch, _KINDS.get(told.kind, told.kind), f"rank {told.rank}" if told.rank else ""]
        return {
            **shared,
            "line": " · ".join(filter(None, facts)),
            "trigger": printable(", ".join(triggers[:3]), 60),
            "arch": told.arch,
            "problem": self._misfit(adapter.path, base) if base else "",
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

    def _misfit(self, path: Path, base: str) -> str:
        key = (*_stamp(path), base)
        if key not in self._fits:
            self._fits[key] = self._compare(path, base)
        return self._fits[key]

    def _compare(self, path: Path, base: str) -> str:
        try:
            if base not in self._targets:
                self._targets[base] = of_base(base)
            target = self._targets[base]
            told = self._describe(path)
            if not isinstance(told, str) and told.arch and told.arch != target.arch:
                ours, theirs = (_ARCHES.get(a, a) for a in (target.arch, told.arch))
                return f"Made for {theirs}; this base is {ours}."
            misfits = verify(path, target).misfits
        except (InputError, OSError) as error:
            return printable(error, 300)
        if not misfits:
            return ""
        return f"Made for another size of model: {words.counted(len(misfits), 'layer')} do not fit."

    def _of_folder(self) -> list[Adapter]:
        folder = self._context.adapters
        if not folder.is_dir():
            return []
        files = sorted(p for p in folder.rglob("*.safetensors") if p.is_file())[:_MAX_FILES]
        return [
            Adapter(
                id=f"file/{path.relative_to(folder).as_posix()}",
                path=path,
                title=printable(path.stem, 60),
                thumbnail=_sidecar(path),
            )
            for path in files
            if not path.is_symlink() and path.resolve().is_relative_to(folder.resolve())
        ]


def _of_run(follower: Follower) -> list[Adapter]:
    run, spec = follower.run, follower.spec()
    if spec is None:
        return []
    name = printable(run.path.name, 60)
    prompts = prompts_of(follower)
    found = []
    final = run.adapter_file(spec)
    if final.is_file() and not final.is_symlink():
        last = max(follower.progress.previews, default=None)
        shown = _preview(run, follower, last)
        found.append(Adapter(f"run/{run.path.name}", final, name, None, spec, prompts, shown))
    for step in sorted(follower.progress.exports, reverse=True):
        path = inside(run, follower.progress.exports[step])
        if path is not None and path.parent.name == "exports":
            found.append(
                Adapter(
                    id=f"run/{run.path.name}/{step}",
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
    return inside(run, pictures[0].get("file")) if pictures else None


def _sidecar(path: Path) -> Path | None:
    """The picture that A1111 keeps beside an adapter: `NAME.preview.png` or `NAME.png`."""
    for ending in (".preview.png", ".png", ".jpg", ".webp"):
        beside = path.with_name(path.stem + ending)
        if beside.is_file() and not beside.is_symlink():
            return beside
    return None


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (str(path), 0, 0)
    return (str(path), stat.st_mtime_ns, stat.st_size)
