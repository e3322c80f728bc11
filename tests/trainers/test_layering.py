"""Settings: layers, suggestions, and the way to TOML and options and back."""

from __future__ import annotations

import tomllib

import pytest

from lora_diffusion.errors import InputError
from trainers.argv import to_argv
from trainers.dreambooth_lora import parse
from trainers.layering import build_spec, preset_names, read_preset, to_toml
from trainers.spec import JobSpec

FULL = {
    "data": {
        "folder": "a b/ü",
        "trigger": 'say "hi"',
        "class_prompts": ["x, y", "z"],
        "subsets": [{"folder": "a, b", "repeats": 3}, {"folder": "ö", "is_class": True}],
    },
    "adapter": {
        "kind": "dora",
        "dora_axis": "out",
        "rank": 7,
        "conv_rank": 3,
        "conv_alpha": 1.5,
        "ranks": {"*.attn2.*": 3},
        "alphas": {"unet.*": 1.5},
        "start_from": "a b/ö.safetensors",
    },
    "optim": {
        "lr_unet": 3e-3,
        "clip_norm": 0.5,
        "lora_plus_ratio": 16.0,
        "lr_patterns": {"*.mid_block.*": 0.5, "text_encoder.*": 0.0},
    },
    "schedule": {"epochs": 4},
    "preview": {"enabled": False},
    "save": {"name": "my file"},
}


def test_later_layers_win_field_by_field():
    spec = build_spec([{"adapter": {"rank": 4, "alpha": 2}}, {"adapter": {"rank": 8}}])
    assert (spec.adapter.rank, spec.adapter.alpha) == (8, 2.0)


def test_a_changed_kind_starts_its_section_afresh():
    below = {"adapter": {"kind": "other", "rank": 4, "leftover": 1}}
    assert build_spec([below, {"adapter": {"kind": "lora"}}]).adapter.rank == 16
    dora = {"adapter": {"kind": "dora", "dora_axis": "out", "rank": 4}}
    changed = build_spec([dora, {"adapter": {"kind": "rslora"}}]).adapter
    assert (changed.kind, changed.dora_axis, changed.rank) == ("rslora", "in", 16)


def test_epochs_replace_the_steps_of_a_preset():
    spec = build_spec([{"schedule": {"steps": 100}}, {"schedule": {"epochs": 3}}])
    assert (spec.schedule.steps, spec.schedule.epochs) == (None, 3)


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_name_the_command_that_runs_them(name):
    build_spec([read_preset(name)])
    from lora_diffusion import bundled

    text = (bundled.root("presets") / f"{name}.toml").read_text(encoding="utf-8")
    assert f"--preset {name}" in text.split("[model]")[0]


def test_toml_and_options_give_the_same_spec_back():
    spec = build_spec([FULL])
    assert build_spec([tomllib.loads(to_toml(spec))]) == spec
    assert parse([*to_argv(spec), "--output_dir", "x"]).runs[0].spec == spec
    assert to_argv(build_spec([])) == []


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"optim": {"lr": 1}}, ["optim.lr", "not a setting", "optim.lr_unet"]),
        ({"rank": 4}, ["rank", "adapter.rank"]),
        ({"adapter": {"rank": 0}}, ["adapter.rank", "0", "greater than or equal to 1"]),
        ({"adapter": {"kind": "oft"}}, ["adapter.kind", "oft", "rslora"]),
        ({"adapter": {"dora_axis": "out"}}, ["adapter.dora_axis", "adapter.kind"]),
        ({"adapter": {"lokr_factor": 4}}, ["adapter.lokr_factor", "adapter.kind lokr"]),
        ({"adapter": {"kind": "loha", "init": "gaussian"}}, ["adapter.init", "lora or rslora"]),
        ({"adapter": {"kind": "lokr", "rank_dropout": 0.1}}, ["adapter.rank_dropout", "lora or"]),
        (
            {"adapter": {"kind": "loha"}, "optim": {"lora_plus_ratio": 16}},
            ["optim.lora_plus_ratio", "loha has none"],
        ),
        ({"optim": {"lr_patterns": {"*": -1}}}, ["optim.lr_patterns"]),
        ({"save": {"name": "../x"}}, ["save.name", "plain file name"]),
        ({"data": {"class_pictures": 3}}, ["data.class_prompts"]),
        ({"data": {"class_prompts": ["a dog", " "]}}, ["data.class_prompts", "empty prompt"]),
        ({"model": {"precision": "fp8"}}, ["model.precision", "fp8", "bf16"]),
        ({"schedule": {"steps": 10**9}}, ["schedule.steps"]),
    ],
)
def test_bad_settings_are_one_line_that_names_them(layer, words):
    with pytest.raises(InputError) as caught:
        build_spec([layer])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--output_dir", "x", "--optim.lr", "1"], ["--optim.lr", "optim.lr_unet"]),
        (["--output_dir", "x", "--preset", "demo-charcter"], ["demo-charcter", "demo-character"]),
        (["--preset", "demo-character"], ["--output_dir"]),
        (["--output_dir", "x", "--config", "no.toml"], ["no.toml"]),
        (["--output_dir"], ["--output_dir"]),
        (["--output-dir", "x"], ["--output-dir", "'--output_dir'"]),
    ],
)
def test_bad_options_are_one_line_that_names_them(argv, words):
    with pytest.raises(InputError) as caught:
        parse(argv)
    for word in words:
        assert word in str(caught.value)


def test_options_win_over_config_over_preset(tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text("[adapter]\nrank = 3\nalpha = 3\n", encoding="utf-8")
    argv = ["--preset", "demo-character", "--config", str(config), "--adapter.alpha", "5"]
    spec = parse([*argv, "--output_dir", "x"]).runs[0].spec
    assert (spec.adapter.rank, spec.adapter.alpha) == (3, 5.0)
    assert spec.data.trigger == "sks"


def test_every_field_has_help():
    for section in JobSpec.model_fields.values():
        for name, field in section.annotation.model_fields.items():
            assert field.description, name
