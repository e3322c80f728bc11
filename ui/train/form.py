"""The form: every setting of the one schema as a field, and its value as text and back.

Texts are what stands in the page. An empty text is "unset" where a setting can be unset. A text
that begins with a quotation mark is read as a JSON string, so that whatever a setting holds can be
written down: empty text, blanks at the ends, control characters.
"""

from __future__ import annotations

import json
import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lora_diffusion.errors import InputError, printable
from trainers.spec import JobSpec

Kind = Literal["switch", "choice", "number", "text", "lines", "table", "toml"]
Texts = dict[str, str]
Layer = dict[str, dict[str, Any]]

_UNUSUAL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_ROWS = "rows"
_WORDS = {
    "lr": "learning rate", "px": "(px)", "cfg": "CFG", "snr": "SNR", "ema": "EMA", "dora": "DoRA",
    "lokr": "LoKr", "arch": "architecture", "fp8": "FP8",
}  # fmt: skip
_LABELS = {  # where a setting's own words would not read well
    "bucket_min_px": "Smallest side (px)",
    "bucket_max_px": "Largest side (px)",
    "bucket_step_px": "Sides are multiples of (px)",
    "clip_skip": "CLIP skip",
    "min_snr_gamma": "Min-SNR gamma",
    "v_like_epsilon": "v weighed like epsilon",
    "lora_plus_ratio": "LoRA+ ratio",
    "lr_unet": "Learning rate, UNet",
    "lr_text": "Learning rate, text encoder",
    "lr_text_2": "Learning rate, second text encoder",
    "lr_patterns": "Learning rate by layer",
    "lr_cycles": "Cosine cycles",
    "lr_power": "Polynomial power",
    "lr_warmup_ratio": "Warm-up (share of the steps)",
    "lr_warmup_steps": "Warm-up (steps)",
    "beta1": "Beta 1",
    "beta2": "Beta 2",
    "d_coef": "Prodigy's d coefficient",
    "clip_norm": "Clip gradients at norm",
    "max_norm": "Largest norm of a layer",
    "to": "Tracker",
}


@dataclass(frozen=True)
class Field:
    """One setting as the page draws it. `name` is `section.field`; `default` is its text."""

    name: str
    label: str
    kind: Kind
    help: str
    default: str
    optional: bool
    choices: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        return self.name.partition(".")[0]


def fields() -> list[Field]:
    """Every setting, section by section, in the schema's order."""
    defaults = to_texts(JobSpec())
    return [
        _field(section, name, info, defaults[f"{section}.{name}"])
        for section, model in _sections().items()
        for name, info in model.model_fields.items()
    ]


def section_titles() -> dict[str, str]:
    """Section -> what the page calls it."""
    return {name: field.description or name for name, field in JobSpec.model_fields.items()}


def to_texts(spec: JobSpec) -> Texts:
    """`section.field` -> text, of every setting."""
    texts = {}
    for section, model in _sections().items():
        group = getattr(spec, section)
        for name, info in model.model_fields.items():
            kind, optional, _ = _shape(info)
            texts[f"{section}.{name}"] = _to_text(getattr(group, name), kind, optional)
    return texts


def to_layer(texts: Mapping[str, str]) -> Layer:
    """The settings that the texts say, for `build_spec`; those left out keep their defaults.

    Raises:
        FormError: a text that can't be read, or names no setting.
    """
    layer: Layer = {name: {} for name in _sections()}
    for name, text in texts.items():
        section, _, field = name.partition(".")
        model = _sections().get(section)
        if model is None or field not in model.model_fields or not isinstance(text, str):
            raise FormError(name, f"'{printable(name, 80)}' is not a setting.")
        info = model.model_fields[field]
        kind, optional, _ = _shape(info)
        layer[section][field] = _from_text(name, text, kind, optional)
    return layer


class FormError(InputError):
    """A text of the form that can't be read as what it should be; `name` is its field."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(problem)
        self.name = name


def _sections() -> dict[str, type[BaseModel]]:
    found = {}
    for name, field in JobSpec.model_fields.items():
        assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        found[name] = field.annotation
    return found


def _field(section: str, name: str, info: FieldInfo, default: str) -> Field:
    kind, optional, choices = _shape(info)
    return Field(
        name=f"{section}.{name}",
        label=_label(name),
        kind=kind,
        help=info.description or "",
        default=default,
        optional=optional,
        choices=choices,
    )


def _label(name: str) -> str:
    if name in _LABELS:
        return _LABELS[name]
    words = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


def _shape(info: FieldInfo) -> tuple[Kind, bool, tuple[str, ...]]:
    """(kind, whether it can be unset, choices) of a setting."""
    annotation, optional = info.annotation, False
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        assert len(inner) == 1, f"no field for {annotation}"
        annotation, optional = inner[0], True
    origin = get_origin(annotation)
    if annotation is bool:
        return ("choice", True, ("true", "false")) if optional else ("switch", False, ())
    if origin is Literal:
        return "choice", optional, tuple(map(str, get_args(annotation)))
    if origin is tuple:
        one = get_args(annotation)[0]
        return ("lines" if one is str or get_origin(one) is Literal else "toml"), optional, ()
    if origin is dict:
        return "table", optional, ()
    return ("number" if annotation in (int, float) else "text"), optional, ()


def _to_text(value: Any, kind: Kind, optional: bool) -> str:
    if value is None:
        return ""
    match kind:
        case "text":
            return _quoted(value, empty=optional)
        case "lines":
            return "\n".join(_quoted(line, empty=True) for line in value)
        case "table":
            return "\n".join(f"{_quoted(k, empty=True)} = {v!r}" for k, v in value.items())
        case "toml":
            rows = [row.model_dump(mode="json", exclude_none=True) for row in value]
            return tomli_w.dumps({_ROWS: rows}).replace("\r", "\\r") if rows else ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _from_text(name: str, text: str, kind: Kind, optional: bool) -> Any:
    if kind == "text":
        return None if optional and not text else _unquoted(text)
    if optional and not text.strip():
        return None
    match kind:
        case "lines":
            return [_unquoted(line) for line in text.split("\n") if line.strip()]
        case "table":
            return dict(_pair(name, line) for line in text.split("\n") if line.strip())
        case "toml":
            return _rows(name, text)
    return text.strip()


def _pair(name: str, line: str) -> tuple[str, str]:
    key, equals, value = line.rpartition("=")
    if not equals:
        raise FormError(name, "Write one 'pattern = number' on each line.")
    return _unquoted(key.strip()), value.strip()


def _rows(name: str, text: str) -> Any:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FormError(name, f"Is not valid TOML ({printable(error, 80)}).") from None
    rows = found.get(_ROWS, [])
    if set(found) - {_ROWS} or not isinstance(rows, list):
        raise FormError(name, "Begin each folder with a line [[rows]].")
    return rows


def _quoted(text: str, *, empty: bool) -> str:
    """`text`, as a JSON string where it could not stand for itself."""
    plain_text = text and not text.startswith('"') and text == text.strip()
    if _UNUSUAL.search(text) or not (plain_text or (not text and not empty)):
        return json.dumps(text)
    return text


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, str) else text
