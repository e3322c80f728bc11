"""The captioners there are: the built-in ones, and those of installed plug-ins. No torch."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lora_diffusion.errors import InputError, printable
from trainers.data.captioners.plugin import Captioner, Context, Plugin, Shot
from trainers.spec import Section

GROUP = "lora_diffusion.captioners"
# Each module has a `PLUGIN`; it imports its library when the captioner is opened.
_BUILT_IN = {
    "blip": "trainers.data.captioners.blip",
    "florence2": "trainers.data.captioners.florence2",
    "llava": "trainers.data.captioners.llava",
    "template": "trainers.data.captioners.template",
    "wd14": "trainers.data.captioners.wd14",
}


def names() -> list[str]:
    """Every captioner's name: built-in ones first. Loads none."""
    return [*_BUILT_IN, *sorted({point.name for point in _points()} - _BUILT_IN.keys())]


def find(name: str) -> Plugin[Any]:
    """The captioner `name`. A built-in one wins over a plug-in of the same name.

    Raises:
        InputError: there is none (with a suggestion), two plug-ins claim the name, or the plug-in
            can't be loaded.
    """
    if name in _BUILT_IN:
        found: Plugin[Any] = importlib.import_module(_BUILT_IN[name]).PLUGIN
        return found
    points = [point for point in _points() if point.name == name]
    if not points:
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise InputError(
            f"There is no captioner '{printable(name)}'.{hint} Captioners: {', '.join(names())}."
        )
    if len({point.value for point in points}) > 1:
        makers = " and ".join(sorted(_maker(point) for point in points))
        raise InputError(f"Captioner '{name}' is in {makers}. Uninstall one of them.")
    return _load(points[0])


def _points() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))


def _load(point: EntryPoint) -> Plugin[Any]:
    with _blaming(point):
        plugin = point.load()
    if not (
        isinstance(plugin, Plugin)
        and isinstance(plugin.settings, type)
        and issubclass(plugin.settings, Section)
    ):
        raise InputError(
            f"Captioner '{point.name}': {printable(point.value)} of {_maker(point)} is not a "
            f"{Plugin.__module__}.Plugin with settings. Update or uninstall it."
        )

    def guarded_open(settings: Section, context: Context) -> Captioner:
        with _blaming(point):
            return _Guarded(point, plugin.open(settings, context))

    return replace(plugin, open=guarded_open)


@contextmanager
def _blaming(point: EntryPoint) -> Iterator[None]:
    """Whatever a plug-in's own code raises becomes one line that names the plug-in."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}", 120)
        raise InputError(
            f"Captioner '{point.name}': the plug-in {_maker(point)} failed ({reason}). Update or "
            "uninstall it, or tell its author."
        ) from error


def _maker(point: EntryPoint) -> str:
    return printable(point.dist.name if point.dist is not None else point.value)


@dataclass(frozen=True)
class _Guarded:
    """A plug-in's captioner whose errors name the plug-in."""

    point: EntryPoint
    inner: Captioner

    @property
    def model(self) -> str:
        with _blaming(self.point):
            return str(self.inner.model)

    def caption(self, shots: Sequence[Shot]) -> list[str]:
        with _blaming(self.point):
            captions = list(self.inner.caption(shots))
            if len(captions) != len(shots):
                raise ValueError(f"{len(captions)} captions for {len(shots)} pictures")
            return [str(caption) for caption in captions]
