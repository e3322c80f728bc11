"""The simple form: its few fields, and how they become settings through the one schema."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from trainers import layering
from trainers.layering import SettingError, build_spec, read_preset, to_argv
from trainers.spec import JobSpec
from ui import datasets, models

DEMO_FOLDERS = {
    "Demo character": "bundled:demo_character",
    "Demo style": "bundled:demo_style",
}
OWN_PICTURES = "My own folder"
# Words of preset names that are written another way.
_SPELLINGS = {
    "sd15": "SD 1.5",
    "sd21": "SD 2.1",
    "sdxl": "SDXL",
    "noobai": "NoobAI",
    "vram": "VRAM",
}

Layer = dict[str, dict[str, Any]]

# A demo preset speaks of the demo's creature; with other pictures those words are taken out.
_OWN_SUBJECT: Layer = {
    "data": {"class_pictures": 0, "class_prompts": []},
    "preview": {"prompts": []},
}


@dataclass(frozen=True)
class Answers:
    """What stands in the form. Numbers are as typed; the schema reads them."""

    preset: str
    pictures: str
    folder: str
    base: str
    name: str
    trigger: str
    steps: str
    rank: str
    lr: str

    @property
    def location(self) -> str:
        """The folder of pictures that is chosen."""
        return DEMO_FOLDERS.get(self.pictures, self.folder)


@dataclass(frozen=True)
class Start:
    """What a preset puts into the form."""

    pictures: str
    base: str
    name: str
    trigger: str
    steps: str
    rank: str
    lr: str


def start_of(preset: str) -> Start:
    """The form as the preset fills it.

    Raises:
        InputError: no such preset.
    """
    spec = build_spec([read_preset(preset)])
    by_folder = {folder: name for name, folder in DEMO_FOLDERS.items()}
    given = read_preset(preset).get("data", {}).get("folder")
    return Start(
        pictures=by_folder.get(given, OWN_PICTURES),
        base=spec.model.base,
        name=spec.save.name or preset.replace("_", "-"),
        trigger=spec.data.trigger or "",
        steps="" if spec.schedule.steps is None else str(spec.schedule.steps),
        rank=str(spec.adapter.rank),
        lr=f"{spec.optim.lr_unet:g}",
    )


def to_spec(answers: Answers) -> JobSpec:
    """The settings of the run.

    Raises:
        InputError: the first thing that is wrong.
    """
    datasets.look(answers.location)
    models.check_base(answers.base)
    return build_spec([read_preset(answers.preset), *_field_layers(answers).values()])


def problems(answers: Answers) -> dict[str, str]:
    """What is wrong, by field; empty where the run can start."""
    found: dict[str, str] = {}
    _note(found, "folder", lambda: datasets.look(answers.location))
    _note(found, "base", lambda: models.check_base(answers.base))
    try:
        preset = read_preset(answers.preset)
    except InputError as error:
        return {**found, "preset": str(error)}
    for name, layer in _field_layers(answers).items():
        _note(found, name, lambda layer=layer: build_spec([preset, layer]))  # type: ignore[misc]
    return found


def command(answers: Answers, runs: str = "runs") -> str:
    """The command line that does the same run, in a folder under `runs`.

    Raises:
        InputError: the form is not valid yet.
    """
    program = ["python", "-m", "trainers.dreambooth_lora"]
    output = ["--output_dir", f"{runs}/{answers.name.strip() or 'run'}"]
    wanted = _options(to_spec(answers))
    preset = _options(build_spec([read_preset(answers.preset)]))
    if preset.keys() <= wanted.keys():  # else something goes back to its default: say it all
        program += ["--preset", answers.preset]
        wanted = {name: value for name, value in wanted.items() if preset.get(name) != value}
    return shlex.join([*program, *output, *itertools.chain.from_iterable(wanted.items())])


def _options(spec: JobSpec) -> dict[str, str]:
    words = to_argv(spec)
    return dict(zip(words[::2], words[1::2], strict=True))


def _field_layers(answers: Answers) -> dict[str, Layer]:
    """Each field as a layer over the preset. Rates and alpha keep the preset's proportions."""
    preset = build_spec([read_preset(answers.preset)])
    layers: dict[str, Layer] = {
        "folder": {"data": {"folder": _absolute(answers.location)}},
        "base": {"model": {"base": _absolute(answers.base)}},
        "name": {"save": {"name": answers.name.strip() or None}},
        "trigger": {"data": {"trigger": answers.trigger.strip() or None}},
        "rank": {"adapter": {"rank": answers.rank.strip(), **_alpha(preset, answers.rank)}},
        "lr": {"optim": {"lr_unet": answers.lr.strip(), **_text_rate(preset, answers.lr)}},
    }
    if answers.pictures == OWN_PICTURES and preset.data.folder.startswith(bundled.PREFIX):
        layers["pictures"] = _OWN_SUBJECT
    if answers.steps.strip() or preset.schedule.epochs is None:
        layers["steps"] = {"schedule": {"steps": answers.steps.strip().replace(",", "")}}
    return layers


def _absolute(location: str) -> str:
    """A local path in full, since the trainer has another working folder; else as typed."""
    text = location.strip()
    if not text or text.startswith(bundled.PREFIX):
        return text
    path = Path(text).expanduser()
    return str(path.absolute()) if path.exists() else text


def _alpha(preset: JobSpec, rank: str) -> dict[str, Any]:
    if preset.adapter.alpha is None or not rank.strip().isdecimal():
        return {}
    return {"alpha": preset.adapter.alpha / preset.adapter.rank * int(rank)}


def _text_rate(preset: JobSpec, lr: str) -> dict[str, Any]:
    try:
        rate = float(lr)
    except ValueError:
        return {}
    if not preset.optim.lr_unet or not 0 <= rate <= 1:
        return {}
    share = preset.optim.lr_text / preset.optim.lr_unet
    return {"lr_text": float(f"{min(1.0, rate * share):.6g}")}


def _note(found: dict[str, str], name: str, check: Callable[[], object]) -> None:
    try:
        check()
    except SettingError as error:
        found[name] = error.problem
    except InputError as error:
        found[name] = printable(str(error), 300)


def preset_choices() -> list[tuple[str, str]]:
    """(label, name) of the presets, the demos first."""
    names = sorted(layering.preset_names(), key=lambda n: (not n.startswith("demo"), n))
    return [(_preset_label(name), name) for name in names]


def _preset_label(name: str) -> str:
    """`sd15-style` is `SD 1.5 style`."""
    words = [_SPELLINGS.get(word, word) for word in name.replace("_", "-").split("-")]
    return words[0][:1].upper() + " ".join(words)[1:]
