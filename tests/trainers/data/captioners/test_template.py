"""The template captioner: fields, and what is refused before any picture is opened."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from lora_diffusion.errors import InputError
from tests.trainers.data.captioners.shots import opened, shot
from trainers.data.captioners.template import TemplateSettings


def test_every_field_is_filled():
    template = "{trigger}|{folder}|{stem}|{name}|{width}x{height}|{{}}"
    captioner = opened("template", "sks", template=template)
    assert captioner.caption([shot("a_red_cat", (40, 30)), shot("b", (1, 2))]) == [
        "sks|my folder|a red cat|a_red_cat.png|40x30|{}",
        "sks|my folder|b|b.png|1x2|{}",
    ]


@pytest.mark.parametrize("template", ["{nope}", "{0}", "{}", "{trigger.real}", "{width:>9}", "{a"])
def test_what_is_no_field_is_refused(template):
    with pytest.raises(ValidationError, match=r"fields are|braces"):
        TemplateSettings(template=template)


def test_a_trigger_is_missed():
    with pytest.raises(InputError, match="--trigger WORD"):
        opened("template")
    assert opened("template", template="a photo").caption([shot()]) == ["a photo"]
