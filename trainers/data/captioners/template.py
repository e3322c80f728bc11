"""Captions from a template: no model. No torch."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from pydantic import Field, field_validator

from lora_diffusion.errors import InputError
from trainers.data.captioners.plugin import Captioner, Context, Plugin, Shot
from trainers.spec import Section

FIELDS = ("trigger", "folder", "stem", "name", "width", "height")


class TemplateSettings(Section):
    """What the template captioner writes."""

    template: str = Field(
        "a photo of {trigger}",
        description="The caption. Fields: " + ", ".join(f"{{{name}}}" for name in FIELDS) + "; "
        "{stem} and {folder} have their underscores turned into spaces, sizes are in px.",
    )

    @field_validator("template")
    @classmethod
    def _known_fields(cls, template: str) -> str:
        try:
            parts = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f"{error}; write {{{{ and }}}} for braces") from None
        for _, name, form, conversion in parts:
            if name is not None and (name not in FIELDS or form or conversion):
                known = ", ".join(f"{{{field}}}" for field in FIELDS)
                raise ValueError(f"has no field {{{name}}}; fields are {known}")
        return template


@dataclass(frozen=True)
class _TemplateCaptioner:
    template: str
    trigger: str
    model: str = ""

    def caption(self, shots: Sequence[Shot]) -> list[str]:
        return [
            self.template.format(
                trigger=self.trigger,
                folder=_words(shot.folder),
                stem=_words(PurePath(shot.name).stem),
                name=shot.name,
                width=shot.image.width,
                height=shot.image.height,
            )
            for shot in shots
        ]


def _open(settings: TemplateSettings, context: Context) -> Captioner:
    if "{trigger}" in settings.template and not context.trigger:
        raise InputError(
            "The template has {trigger}, and no trigger is given. Add --trigger WORD, or write "
            "another --template."
        )
    return _TemplateCaptioner(settings.template, context.trigger)


def _words(name: str) -> str:
    return name.replace("_", " ")


PLUGIN = Plugin("A fixed text with fields; needs no model.", TemplateSettings, _open, batch=16)
