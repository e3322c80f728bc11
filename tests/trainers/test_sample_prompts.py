"""Files of sample prompts: sd-scripts' lines, JSON, TOML; errors name file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lora_diffusion.errors import InputError
from tests.trainers.test_bit_exact import METHODS, settings, train
from trainers.data.scan import Picture
from trainers.layering import build_spec
from trainers.preview import preview_prompts
from trainers.sample_prompts import SamplePrompt, read_prompts

FULL = SamplePrompt("a photo of sks", "blurry, bad -- hands", 42, 7.5, 28, 512, 768, "euler_a")


def read(tmp_path: Path, text: str, name: str = "prompts.txt") -> tuple[SamplePrompt, ...]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_prompts(tmp_path / name)


def test_lines_as_sd_scripts_users_write_them(tmp_path):
    text = (
        "\ufeff# my prompts\n\n"
        "a photo of sks --n blurry, bad -- hands --w 512 --h 768 --d 42 --l 7.5 --s 28 "
        "--ss k_euler_a\r\n"
        "  well-known, a--b, 1girl --d 0\n"
        "plain ü"
    )
    assert read(tmp_path, text) == (
        FULL,
        SamplePrompt("well-known, a--b, 1girl", seed=0),
        SamplePrompt("plain ü"),
    )


def test_json_and_toml_say_the_same(tmp_path):
    table = {
        "prompt": "a photo of sks", "negative_prompt": "blurry, bad -- hands", "seed": 42,
        "scale": 7.5, "sample_steps": 28, "width": 512, "height_px": 768,
        "sample_sampler": "euler_a",
    }  # fmt: skip
    listed = read(tmp_path, json.dumps([table, {"prompt": "x"}]), "a.json")
    assert listed == (FULL, SamplePrompt("x"))
    toml = (
        '[prompt]\nscale = 5\nseed = 1\n[[prompt.subset]]\nprompt = "one"\n'
        '[[prompt.subset]]\nprompt = "two"\nseed = 9\n'
    )
    assert read(tmp_path, toml, "a.toml") == (
        SamplePrompt("one", seed=1, cfg=5.0),
        SamplePrompt("two", seed=9, cfg=5.0),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fine\n\na --w 100", ["prompts.txt, line 3", "--w = '100'", "multiple of 8"]),
        ("a --d -1", ["line 1", "--d = '-1'", "whole number"]),
        ("a --s", ["line 1", "--s = ''", "from 1 to 1,000"]),
        ("a --l lots", ["line 1", "--l = 'lots'", "0 to 50"]),
        ("a --ss heun", ["line 1", "--ss = 'heun'", "euler_a"]),
        ("a\nb --steps 3", ["line 2", "no option --steps", "--s"]),
        ("--n bad", ["line 1", "no prompt"]),
        ("# nothing\n", ["prompts.txt", "has no prompts"]),
        ("a\n" * 65, ["65 prompts", "64"]),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "[{]", ["a.json", "not valid JSON"]),
        ("a.toml", "prompt = [", ["a.toml", "not valid TOML"]),
        ("a.json", '{"x": 1}', ["a.json", "no list of prompts"]),
        ("a.json", '[{"prompt": "a"}, {"prompt": " "}]', ["prompt 2", "no 'prompt'"]),
        ("a.json", '[{"prompt": "a", "widht": 64}]', ["prompt 1", "'widht'", "'width'"]),
        ("a.json", '[{"prompt": "a", "seed": true}]', ["prompt 1: seed", "whole number"]),
        ("a.json", '[{"prompt": "a", "scale": NaN}]', ["prompt 1: scale", "0 to 50"]),
        ("a.json", '[{"prompt": "a", "negative": 3}]', ["prompt 1: negative", "must be text"]),
    ],
)
def test_a_table_that_is_wrong_is_named(tmp_path, name, text, words):
    with pytest.raises(InputError) as caught:
        read(tmp_path, text, name)
    for word in words:
        assert word in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.txt: can't be read.*preview\.prompts_file"):
        read_prompts(tmp_path / "gone.txt")
    with pytest.raises(InputError, match="can't be read"):
        read_prompts(tmp_path)
    (tmp_path / "latin.txt").write_bytes("größe".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_prompts(tmp_path / "latin.txt")
    (tmp_path / "huge.txt").write_bytes(b"a\n" * 600_000)
    with pytest.raises(InputError, match="no file of prompts"):
        read_prompts(tmp_path / "huge.txt")


def test_the_trigger_is_filled_in_and_the_file_wins_over_the_prompts(tmp_path):
    (tmp_path / "p.txt").write_text("{trigger} smiling --d 5\n", encoding="utf-8")
    preview = {"prompts": ["other"], "prompts_file": str(tmp_path / "p.txt")}
    spec = build_spec([{"data": {"trigger": "sks"}, "preview": preview}])
    pictures = [Picture(Path("a.png"), ("sks, a",))]
    assert preview_prompts(spec, pictures) == (SamplePrompt("sks smiling", seed=5),)


def test_a_run_draws_each_with_its_own_settings(world, tmp_path):
    (tmp_path / "p.txt").write_text(
        "a {trigger} --w 96 --h 64 --s 1 --d 7 --l 1 --n dull\nplain\n", encoding="utf-8"
    )
    spec = settings(world, 1, METHODS["adamw"])
    preview = {"enabled": True, "prompts_file": str(tmp_path / "p.txt"), "sampling_steps": 2}
    spec = build_spec([spec.model_dump(exclude_none=True), {"preview": preview}])
    train(spec, tmp_path / "run")
    drawn = sorted((tmp_path / "run/previews/step-00000001").iterdir())
    texts, sizes = [], []
    for path in drawn:
        with Image.open(path) as image:
            texts.append(image.text["parameters"])
            sizes.append(image.size)
    assert sizes == [(96, 64), (64, 64)]
    assert "a sks\nNegative prompt: dull\nSteps: 1, " in texts[0]
    assert "CFG scale: 1, Seed: 7, Size: 96x64" in texts[0]
    assert texts[1].startswith("plain\nSteps: 2, ")
    assert "Seed: 43" in texts[1]
    adapter = next((tmp_path / "run").glob("*.safetensors")).read_bytes()
    assert b"p.txt" in adapter
    assert str(tmp_path).encode() not in adapter
