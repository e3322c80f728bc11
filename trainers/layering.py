"""preset -> file -> overrides, layered and validated once into a `JobSpec`; and back to TOML."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from lora_diffusion import bundled
from lora_diffusion.errors import InputError, printable
from trainers.spec import DEFAULT_STEPS, JobSpec

Layer = Mapping[str, Any]
NULL = "null"
"""Unset, where the default is not: in a TOML file and on the command line."""


class SettingError(InputError):
    """A setting that is unknown or out of bounds.

    Attributes:
        setting: `section.field`.
        problem: the sentence without the setting's name and help, for a form that shows both.
    """

    def __init__(self, message: str, setting: str, problem: str) -> None:
        super().__init__(message)
        self.setting = setting
        self.problem = problem


def preset_names() -> list[str]:
    """Names of the presets that come with the project."""
    return sorted(p.stem for p in bundled.root("presets").glob("*.toml"))


def read_preset(name: str) -> dict[str, Any]:
    """The settings of a bundled preset.

    Raises:
        InputError: no preset has that name.
    """
    names = preset_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise InputError(
            f"There is no preset '{printable(name)}'.{hint} Presets: {', '.join(names)}."
        )
    return read_toml(bundled.root("presets") / f"{name}.toml")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict.

    Raises:
        InputError: unreadable, not UTF-8, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text. Save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: is not valid TOML ({error}). Mend that line.") from None


def build_spec(layers: Iterable[Layer]) -> JobSpec:
    """Later layers win field by field; a section whose `kind` changes starts afresh.

    Raises:
        SettingError: an unknown name (with a suggestion) or a value out of bounds.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _overlay(merged, layer)
    merged.setdefault("schedule", {})
    if isinstance(merged["schedule"], dict) and not merged["schedule"].keys() & {"steps", "epochs"}:
        merged["schedule"] = {**merged["schedule"], "steps": DEFAULT_STEPS}
    try:
        return JobSpec.model_validate(_without_nulls(merged))
    except ValidationError as error:
        raise _first_problem(error) from None


def problems(layer: Layer) -> dict[str, str]:
    """What is wrong in a whole set of settings: `section.field`, or `section` -> sentence."""
    try:
        JobSpec.model_validate(_without_nulls(layer))
    except ValidationError as error:
        found = error.errors(include_url=False)
        return {".".join(map(str, each["loc"][:2])): printable(_problem(each)) for each in found}
    return {}


def _without_nulls(merged: Layer) -> dict[str, Any]:
    """`"null"` as None, of the settings that can be unset though their default is not."""
    result = dict(merged)
    for section, field in JobSpec.model_fields.items():
        values, model = merged.get(section), field.annotation
        if not isinstance(values, Mapping) or not isinstance(model, type):
            continue
        unset = {
            name: None
            for name, value in values.items()
            if value == NULL and name in model.model_fields and _can_be_unset(model, name)
        }
        if unset:
            result[section] = {**values, **unset}
    return result


def _can_be_unset(model: type[BaseModel], name: str) -> bool:
    field = model.model_fields[name]
    return field.default is not None and type(None) in get_args(field.annotation)


def plain(spec: JobSpec) -> dict[str, dict[str, Any]]:
    """Section -> field -> value of all that is set; `"null"` for what is unset against its default.

    It is what TOML can say, and `build_spec` reads it back to an equal spec.
    """
    told: dict[str, dict[str, Any]] = spec.model_dump(mode="json", exclude_none=True)
    for section, group in spec:
        for name, field in type(group).model_fields.items():
            if getattr(group, name) is None and field.default is not None:
                told[section][name] = NULL
    return told


def to_toml(spec: JobSpec) -> str:
    """The whole spec as TOML that `build_spec` reads back to an equal spec."""
    return tomli_w.dumps(plain(spec))


def _overlay(below: Layer, above: Layer) -> dict[str, Any]:
    result = dict(below)
    for section, values in above.items():
        old = result.get(section)
        if not isinstance(old, Mapping) or not isinstance(values, Mapping):
            result[section] = values
        elif "kind" in values and values["kind"] != old.get("kind", values["kind"]):
            result[section] = dict(values)
        else:
            result[section] = {**old, **_length_wins(values, old)}
    return result


def _length_wins(values: Layer, old: Layer) -> dict[str, Any]:
    """A layer that gives only epochs also clears the steps of the layer below."""
    if "epochs" in values and "steps" not in values and "steps" in old:
        return {"steps": None, **values}
    return dict(values)


def _first_problem(error: ValidationError) -> SettingError:
    problems = error.errors(include_url=False)
    first = problems[0]
    where = ".".join(str(p) for p in first["loc"])
    problem = _problem(first)
    if first["type"] == "extra_forbidden":
        text = f"'{printable(where)}' is not a setting.{suggest(where)}"
    elif first["type"] == "value_error":
        text = problem
    else:
        given = printable(first["input"], 60)
        text = f"{printable(where)} = {given!r}: {problem}{_help_of(first['loc'])}"
    more = len(problems) - 1
    return SettingError(
        text + (f" ({more} more of this kind follow.)" if more else ""), where, printable(problem)
    )


def _problem(found: Mapping[str, Any]) -> str:
    """One sentence about one of pydantic's errors, without the setting's name."""
    if found["type"] == "extra_forbidden":
        return f"Is not a setting.{suggest('.'.join(map(str, found['loc'])))}"
    if found["type"] == "value_error":
        return str(found["ctx"]["error"])
    problem = found["msg"].partition(", unable to parse")[0].partition(", got a number")[0]
    return str(problem).replace("Input should be", "Must be") + "."


def suggest(wanted: str) -> str:
    """A sentence that names the setting most like `wanted`, or points at --help."""
    sections = {name: field.annotation for name, field in JobSpec.model_fields.items()}
    every = [
        f"{section}.{name}"
        for section, model in sections.items()
        if isinstance(model, type) and issubclass(model, BaseModel)
        for name in model.model_fields
    ]
    leaf = wanted.rpartition(".")[2]
    near = [name for name in every if name.split(".")[1] == leaf]
    known = every if "." in wanted else list(sections)
    near = near or difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else " See --help for all settings."


def _help_of(location: tuple[int | str, ...]) -> str:
    if len(location) < 2:
        return ""
    section = JobSpec.model_fields.get(str(location[0]))
    model = section.annotation if section else None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return ""
    field = model.model_fields.get(str(location[1]))
    return f" ({field.description})" if field and field.description else ""
