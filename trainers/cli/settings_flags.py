"""Command-line flags made from a section of settings, and back to the section."""

from __future__ import annotations

import argparse
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from lora_diffusion.errors import InputError, printable
from trainers.spec import Section

_PREFIX = "setting_"
SectionT = TypeVar("SectionT", bound=Section)


def add_flags(parser: argparse.ArgumentParser, section: type[Section], title: str) -> None:
    """A flag a field, with the field's help and default, under the heading `title`.

    Raises:
        InputError: a field has the name of an option that the parser has.
    """
    group = parser.add_argument_group(title)
    for name, field in section.model_fields.items():
        flag = "--" + name.replace("_", "-")
        shared: dict[str, Any] = {
            "dest": _PREFIX + name,
            "default": argparse.SUPPRESS,
            "help": f"{field.description or ''} {_default(field)}".strip().replace("%", "%%"),
        }
        try:
            if field.annotation is bool:
                group.add_argument(flag, action=argparse.BooleanOptionalAction, **shared)
            else:
                group.add_argument(flag, metavar=_metavar(field.annotation), **shared)
        except argparse.ArgumentError:
            raise InputError(
                f"{title}: the setting '{printable(name)}' has the name of an option of "
                f"'{parser.prog}'. Tell its author to rename it."
            ) from None


def read_flags(arguments: argparse.Namespace, section: type[SectionT]) -> SectionT:
    """The section, from the flags that were given.

    Raises:
        InputError: a value out of bounds; names the flag, the rule and what it is for.
    """
    given: Mapping[str, Any] = {
        name: _value(vars(arguments)[_PREFIX + name], field)
        for name, field in section.model_fields.items()
        if _PREFIX + name in arguments
    }
    try:
        return section.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "value_error":
            problem = str(first["ctx"]["error"])
        else:
            problem = first["msg"].replace("Input should be", "must be")
            problem = problem.partition(", unable to parse")[0].partition(", got a number")[0]
        flag = f"--{name.replace('_', '-')} {printable(given.get(name, ''), 60)}".strip()
        raise InputError(f"{flag}: {printable(problem)}. {_help(section, name)}".strip()) from None


def _value(value: object, field: FieldInfo) -> object:
    if isinstance(value, str) and get_origin(field.annotation) is tuple:
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _default(field: FieldInfo) -> str:
    default = field.get_default()
    if field.annotation is bool:
        return f"(default: {'yes' if default else 'no'})"
    if default is None or default == () or default == "":
        return ""
    return f"(default: {default})"


def _metavar(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return "|".join(map(str, get_args(annotation)))
    if origin is tuple:
        return "A,B,…"
    if origin in (Union, types.UnionType):
        inner = [arg for arg in get_args(annotation) if arg is not type(None)]
        return _metavar(inner[0])
    return {int: "N", float: "X"}.get(annotation, "TEXT")


def _help(section: type[Section], name: str) -> str:
    field = section.model_fields.get(name)
    return (field.description or "") if field is not None else ""
