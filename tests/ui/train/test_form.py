"""The form says every setting, and says it back: to TOML, to the command line, to itself."""

from __future__ import annotations

import re
import tomllib

import pytest

from lora_diffusion.errors import InputError
from tests.ui.generated_specs import valid_specs
from trainers.argv import to_argv
from trainers.dreambooth_lora import parse
from trainers.layering import build_spec, preset_names, read_preset, to_toml
from trainers.spec import JobSpec
from ui.train import form
from ui.train.form import FormError


@pytest.fixture(scope="module")
def generated() -> list[JobSpec]:
    """200 valid specs that between them set every field."""
    return list(valid_specs(200, seed=1))


def test_the_generated_specs_are_different_and_set_every_field(generated: list[JobSpec]) -> None:
    assert len({to_toml(spec) for spec in generated}) == 200
    default = form.to_texts(JobSpec())
    texts = [form.to_texts(spec) for spec in generated]
    assert all(any(each[name] != default[name] for each in texts) for name in default)


def test_form_to_toml_to_form_is_identical(generated: list[JobSpec]) -> None:
    for spec in generated:
        texts = form.to_texts(spec)
        from_form = build_spec([form.to_layer(texts)])
        again = build_spec([tomllib.loads(to_toml(from_form))])
        assert form.to_texts(again) == texts and again == spec


def test_toml_to_command_line_is_the_same_spec(generated: list[JobSpec]) -> None:
    for spec in generated:
        read = build_spec([tomllib.loads(to_toml(spec))])
        assert parse([*to_argv(read), "--output_dir", "x"]).runs[0].spec == spec


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_comes_back(preset: str) -> None:
    spec = build_spec([read_preset(preset)])
    assert build_spec([form.to_layer(form.to_texts(spec))]) == spec


def test_every_setting_is_a_field_with_help_once() -> None:
    names = [field.name for field in form.fields()]
    assert len(names) == len(set(names))
    assert set(names) == form.to_texts(JobSpec()).keys()
    assert all(field.help for field in form.fields())
    assert {field.section for field in form.fields()} == form.section_titles().keys()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("data.trigger", "", None),
        ("data.trigger", '""', ""),
        ("data.trigger", '"half', '"half'),
        ("data.trigger", "true", "true"),
        ("preview.negative", "", ""),
        ("optim.clip_norm", " ", None),
        ("adapter.rank", " 8 ", "8"),
        ("preview.prompts", "one\n\n two \n", ["one", " two "]),
        ("preview.prompts", '"a\\nb"', ["a\nb"]),
        ("adapter.ranks", "*.attn2.* = 32\na=b = 4", {"*.attn2.*": "32", "a=b": "4"}),
        ("data.subsets", '[[rows]]\nfolder = "x"', [{"folder": "x"}]),
    ],
)
def test_what_a_text_means(name: str, text: str, value: object) -> None:
    section, _, field = name.partition(".")
    # what is unset by default is left out
    assert form.to_layer({name: text})[section].get(field) == value


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("adapter.ranks", "mid", "pattern = number"),
        ("data.subsets", "[[rows", "not valid TOML"),
        ("data.subsets", "folder = 'x'", "[[rows]]"),
        ("no.such", "1", "is not a setting"),
        ("adapter.no_such", "1", "is not a setting"),
        ("adapter.rank.x", "1", "is not a setting"),
    ],
)
def test_what_cannot_be_read_is_told_at_its_field(name: str, text: str, told: str) -> None:
    with pytest.raises(FormError, match=re.escape(told)) as caught:
        form.to_layer({name: text})
    assert caught.value.name == name
    assert isinstance(caught.value, InputError)
