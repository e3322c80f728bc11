"""Settings as command-line options, and the options that are lists back to settings. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_origin

from pydantic import BaseModel

from trainers.layering import NULL
from trainers.spec import JobSpec, OptimSpec


def to_argv(spec: JobSpec) -> list[str]:
    """Command-line options for every setting that differs from its default."""
    return to_words(to_options(spec))


def to_options(spec: JobSpec) -> dict[str, str]:
    """`--section.field` -> value, of every setting that differs from its default.

    Where a section's `kind` has defaults of its own, it is those that count.
    """
    options: dict[str, str] = {}
    default = JobSpec()
    for section in JobSpec.model_fields:
        group: BaseModel = getattr(spec, section)
        usual = getattr(default, section).model_dump()
        if isinstance(group, OptimSpec):
            chosen = {"kind": group.kind, "lr_schedule": group.lr_schedule}
            usual = OptimSpec.model_validate(chosen).model_dump() | {
                name: usual[name] for name in chosen
            }
        for name in type(group).model_fields:
            value = getattr(group, name)
            if value != usual[name]:
                options[f"--{section}.{name}"] = _as_text(value)
    return options


def to_words(options: Mapping[str, str]) -> list[str]:
    """The options as separate words; a value that looks like an option is joined to its name."""
    words: list[str] = []
    for name, value in options.items():
        words += [f"{name}={value}"] if value.startswith("-") else [name, value]
    return words


def take_json(argv: Sequence[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """(the other words, settings) with lists and tables that are given whole as JSON taken out.

    pydantic-settings takes such a text apart at commas and brackets, inside of strings too.
    """
    rest: list[str] = []
    layer: dict[str, dict[str, Any]] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        section, _, field = name.removeprefix("--").partition(".")
        if not name.startswith("--") or not _holds_several(section, field):
            rest.append(word)
            continue
        if not equals and words:
            value = words[0]
        try:
            found = json.loads(value)
        except ValueError:
            found = None
        if not isinstance(found, list | dict):
            rest.append(word)
            continue
        if not equals:
            words.pop(0)
        layer.setdefault(section, {})[field] = found
    return rest, layer


def _holds_several(section: str, name: str) -> bool:
    group = JobSpec.model_fields.get(section)
    model = group.annotation if group else None
    if not isinstance(model, type) or not issubclass(model, BaseModel):
        return False
    field = model.model_fields.get(name)
    return field is not None and get_origin(field.annotation) in (tuple, dict)


def _as_text(value: object) -> str:
    if value is None:
        return NULL
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        value = [v.model_dump(exclude_none=True) if isinstance(v, BaseModel) else v for v in value]
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
