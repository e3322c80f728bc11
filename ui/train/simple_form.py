"""The simple form: which few settings it shows, and what else has to be right before a run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from trainers import layering
from trainers.argv import to_options, to_words
from trainers.layering import build_spec, read_preset
from trainers.spec import JobSpec
from ui import datasets, models
from ui.train import form
from ui.train.form import FormError, Texts

DEMO_FOLDERS = {
    "Demo character": "bundled:demo_character",
    "Demo style": "bundled:demo_style",
}
_PLACE_HOLDER = "pictures"  # the folder in presets that are for one's own pictures
_SETTING = re.compile(r"\b([a-z_]+\.[a-z_0-9]+)\b")


@dataclass(frozen=True)
class Simple:
    """A field of the simple form; `also` is set with it."""

    name: str
    label: str
    help: str
    also: str = ""


FIELDS = (
    Simple("data.folder", "Pictures", "The folder of pictures and captions to learn from."),
    Simple(
        "model.base", "Base model",
        "The model your LoRA will work with; choose what you draw with.",
    ),
    Simple("save.name", "Name", "Becomes the file name."),
    Simple(
        "data.trigger", "Trigger word", "The word that calls your subject up in a prompt."
    ),
    Simple(
        "schedule.steps", "Training steps",
        "More steps learn more and, past some point, memorise.",
    ),
    Simple(
        "adapter.rank", "Detail (rank)", "How much the LoRA can hold; higher makes larger files."
    ),
    Simple(
        "optim.lr_unet", "Learning rate",
        "How far each step moves; halve it if pictures look burnt.",
    ),
    Simple(
        "data.resolution_px", "Picture size (px)",
        "Larger shows finer detail and needs more memory.",
    ),
    Simple(
        "schedule.batch_size", "Pictures per step", "More is steadier and needs more memory."
    ),
    Simple(
        "preview.prompts", "Preview prompts",
        "One a line, drawn before training and as it goes, always from the same noise.",
    ),
    Simple(
        "preview.every_steps", "Preview and save every",
        "How often (steps) to draw previews and keep a copy you can go back to.",
        also="save.every_steps",
    ),
)  # fmt: skip
"""The twelfth, "What are you teaching?", is the preset (`teaching`): it fills all the others."""


def start_of(preset: str) -> JobSpec:
    """The settings that a preset begins with, under a name of its own.

    Raises:
        InputError: no such preset.
    """
    spec = build_spec([read_preset(preset)])
    name = spec.save.name or preset.replace("_", "-")
    return build_spec([layering.plain(spec), {"save": {"name": name}}])


def begin(preset: str) -> Texts:
    """The form as a preset fills it; pictures of one's own are still to be named.

    Raises:
        InputError: no such preset.
    """
    texts = form.to_texts(start_of(preset))
    if texts["data.folder"] == _PLACE_HOLDER:
        texts["data.folder"] = ""
    return texts


def to_spec(texts: Mapping[str, str]) -> JobSpec:
    """The settings of the run, with paths in full, since the trainer has another working folder.

    Raises:
        InputError: the first thing that is wrong.
    """
    layer = form.to_layer(texts)
    for section, name in (("data", "folder"), ("model", "base")):
        if name in layer[section]:
            layer[section][name] = _absolute(layer[section][name])
    spec = build_spec([layer])
    for check in _looks(spec).values():
        check()
    return spec


def problems(texts: Mapping[str, str]) -> Texts:
    """What is wrong, by field; empty where the run can start."""
    try:
        layer = form.to_layer(texts)
    except FormError as error:
        return {error.name: str(error)}
    found: Texts = {}
    for where, problem in layering.problems(layer).items():
        found.setdefault(_field_of(where, problem), problem)
    if found:
        return found
    try:
        spec = build_spec([layer])
    except InputError as error:
        return {_field_of("", str(error)): str(error)}
    for name, check in _looks(spec).items():
        try:
            check()
        except InputError as error:
            found[name] = printable(str(error), 300)
    return found


def afresh(texts: Mapping[str, str], name: str) -> Texts:
    """The texts with the section of `name`, whose kind was chosen anew, at that kind's defaults.

    What every kind of adapter has is kept.
    """
    section = name.partition(".")[0]
    kept = [name, *_EVERY_KIND.get(section, ())]
    fresh = {key: texts[key] for key in kept if key in texts}
    defaults = form.to_texts(build_spec([form.to_layer(fresh)]))
    return {k: v for k, v in defaults.items() if k.partition(".")[0] == section}


_EVERY_KIND = {
    "adapter": tuple(
        f"adapter.{name}"
        for name in ("targets", "text_targets", "rank", "alpha", "conv_rank", "conv_alpha", "ranks",
                     "alphas", "module_dropout")
    )
}  # fmt: skip


def command(spec: JobSpec, preset: str, runs: str = "runs") -> str:
    """The command line that does the same run, in a folder under `runs`."""
    program = ["python", "-m", "trainers.dreambooth_lora"]
    output = ["--output_dir", f"{runs}/{spec.save.name or 'run'}"]
    wanted = to_options(spec)
    given = to_options(build_spec([read_preset(preset)])) if preset else {}
    # Where something goes back to its default, or a section begins afresh, say it all.
    fresh = any(given.get(kind) != wanted.get(kind) for kind in _KINDS)
    if given and given.keys() <= wanted.keys() and not fresh:
        program += ["--preset", preset]
        wanted = {name: value for name, value in wanted.items() if given.get(name) != value}
    return shlex.join([*program, *output, *to_words(wanted)])


_KINDS = ("--optim.kind", "--adapter.kind", "--objective.kind", "--optim.lr_schedule")


def _looks(spec: JobSpec) -> dict[str, Callable[[], Any]]:
    """Checks of what settings point at, by field."""
    looks: dict[str, Callable[[], Any]] = {"model.base": lambda: models.check_base(spec.model.base)}
    if not spec.data.subsets:
        looks["data.folder"] = lambda: datasets.look(spec.data.folder)
    return looks


def _field_of(where: str, problem: str) -> str:
    """The field that a problem belongs to: its own, or the first that its sentence names."""
    if "." in where:
        return where
    known = {field.name: field for field in form.fields()}
    named = next((name for name in _SETTING.findall(problem) if name in known), "")
    first = next((name for name in known if name.startswith(f"{where}.")), "model.base")
    return named or first


def _absolute(location: object) -> object:
    """A local path in full; anything else as typed."""
    text = str(location).strip()
    if not text or text.startswith(bundled.PREFIX):
        return text
    path = Path(text).expanduser()
    return str(path.absolute()) if path.exists() else text
