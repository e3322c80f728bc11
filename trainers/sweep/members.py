"""What a sweep trains: `--sweep` on the command line -> a name, settings and a folder for each run.

`--sweep adapter.rank=4,8,16` is one run for each value; several `--sweep` are a grid, every value
of the one with every value of the others. `--sweep FILE.toml` lists runs one by one, each a table
of settings over the common ones:

    [[run]]
    name = "small"
    adapter.rank = 4

No torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from trainers.jobs import SWEEP_FILE, RunDir
from trainers.layering import Layer, build_spec, read_toml
from trainers.spec import JobSpec

MAX_RUNS = 128
_SETTING = re.compile(r"([a-z0-9_]+)\.([a-z0-9_]+)")
_HELP = "Write it like --sweep adapter.rank=4,8,16, or name a TOML file of runs."


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        name: also of its folder.
        spec: all of its settings.
        run_dir: its folder, in that of the sweep.
        settings: what it has of its own, `section.field` -> value.
    """

    name: str
    spec: JobSpec
    run_dir: RunDir
    settings: Mapping[str, Any] = field(default_factory=dict)


def members(sweeps: Sequence[str], layers: Sequence[Layer], folder: Path) -> list[Member]:
    """The runs that `--sweep` options ask for.

    Args:
        sweeps: the options' values, as the head of this module has them.
        layers: the settings that all runs have in common; the last is the command line's.
        folder: of the sweep.

    Raises:
        InputError: an option that can't be read, an unknown setting, too many runs, or two runs
            with one name.
    """
    choices = [_choices(text) for text in sweeps]
    count = 1
    for of_option in choices:
        count *= len(of_option)
    if count > MAX_RUNS:
        raise InputError(f"--sweep asks for {count} runs; {MAX_RUNS} is the most in one process.")
    made: list[Member] = []
    for chosen in product(*choices):
        settings: dict[str, Any] = {}
        for _, of_choice in chosen:
            settings |= of_choice
        name = "_".join(name for name, _ in chosen)
        if any(name == other.name for other in made):
            raise InputError(f"--sweep asks twice for the run '{printable(name)}'. Leave one out.")
        try:
            spec = build_spec([*layers[:-1], _over(layers[-1] if layers else {}, settings)])
        except InputError as error:
            raise InputError(f"--sweep, run {printable(name)}: {error}") from None
        made.append(Member(name, spec, RunDir(folder / name), settings))
    return made


def members_in(folder: Path) -> list[Member]:
    """The runs of a sweep that was started in `folder`.

    Raises:
        InputError: there is none, or its files are damaged.
    """
    path = folder / SWEEP_FILE
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        named = [(run["name"], folder / Path(run["folder"]).name, run["settings"]) for run in runs]
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}). Check the path.") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is damaged. Give the --sweep options again.") from None
    return [
        Member(name, RunDir(path).spec(), RunDir(path), settings) for name, path, settings in named
    ]


def _choices(text: str) -> list[tuple[str, dict[str, Any]]]:
    """One option's runs: (name, settings)."""
    setting, equals, values = text.partition("=")
    if not equals:
        return _listed(Path(text))
    if not _SETTING.fullmatch(setting.strip()):
        raise InputError(f"--sweep {printable(text, 80)}: names no setting. {_HELP}")
    found = [value.strip() for value in _split(values)]
    if not all(found):
        raise InputError(f"--sweep {printable(text, 80)}: a value is empty. {_HELP}")
    leaf = setting.strip().partition(".")[2]
    return [
        (f"{leaf}-{_slug(value)}", {setting.strip(): _parsed(value)}) for value in found
    ]  # fmt: skip


def _split(values: str) -> list[str]:
    """At commas outside of brackets."""
    return re.split(r",(?![^\[{]*[\]}])", values)


def _listed(path: Path) -> list[tuple[str, dict[str, Any]]]:
    table = read_toml(path)
    runs = table.get("run")
    if not isinstance(runs, list) or not runs or set(table) != {"run"}:
        raise InputError(f"{path}: is no list of runs. Begin each with a line [[run]].")
    found: list[tuple[str, dict[str, Any]]] = []
    for number, run in enumerate(runs, 1):
        name = run.pop("name", f"run-{number}")
        settings: dict[str, Any] = {}
        for section, fields in run.items():
            if not isinstance(fields, dict):
                raise InputError(
                    f"{path}: run {number} has '{printable(section)}', which is no section. Write "
                    "settings like adapter.rank = 4."
                )
            settings |= {f"{section}.{leaf}": value for leaf, value in fields.items()}
        found.append((_slug(str(name)), settings))
    return found


def _over(layer: Layer, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The command line's settings with a run's own among them, as if given there."""
    result = {section: dict(fields) for section, fields in layer.items()}
    for name, value in settings.items():
        section, _, leaf = name.partition(".")
        result.setdefault(section, {})[leaf] = value
    return result


def _parsed(value: str) -> Any:
    """A value as the command line would read it: JSON in brackets, `null`, or text."""
    if value == "null":
        return None
    if value[0] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            raise InputError(f"--sweep: {printable(value, 60)} is not JSON. {_HELP}") from None
    return value


def _slug(value: str) -> str:
    """`value` as part of a folder's name; of a path its last part."""
    last = value.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return re.sub(r"[^\w.+-]+", "-", last).strip("-.") or "run"
