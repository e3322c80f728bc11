"""The Tools tab's questions: each file is looked at, changed into a copy, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_diffusion.formats import save_adapter
from lora_diffusion.formats.header import read_header
from lora_diffusion.formats.relabel import relabel
from lora_diffusion.injection import AdapterConfig
from lora_diffusion.probe import probe
from ui.context import Context
from ui.tools.functions import functions

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(context: Context) -> Ask:
    known = {function.__name__: function for function in functions(context)}
    return lambda name, /, **request: known[name](request)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "my cat.safetensors"
    small = AdapterConfig(targets="*.attn1.to_q", text_targets="none", rank=4)
    save_adapter(probe("sd15", small), path)
    relabel(path, path, {**read_header(path).metadata, "ss_tag_frequency": "{}"})
    return path


def _finished(ask: Ask, begun: dict[str, Any]) -> dict[str, Any]:
    assert "error" not in begun, begun
    deadline = time.monotonic() + 120
    while (told := ask("tools_task", task=begun["task"]))["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return told


def test_a_file_is_opened_cleaned_and_kept(ask: Ask, adapter: Path, context: Context) -> None:
    opened = ask("tools_open", path=str(adapter))
    told = _finished(ask, opened)
    assert told["result"]["kind"] == "lora" and told["result"]["rank"] == 4
    assert "ss_tag_frequency" in opened["private"]
    made = _finished(ask, ask("tools_clean", file=opened["file"]))["made"]
    assert made["name"] == "my cat-clean.safetensors"
    assert ask("tools_keep", file=made["file"], name="my cat")["name"] == "my cat"
    kept = context.adapters / "my cat.safetensors"
    assert "ss_tag_frequency" not in read_header(kept).metadata
    assert "has a 'my cat' already" in ask("tools_keep", file=made["file"], name="my cat")["error"]
    picked = made["url"].rpartition("/")[2]
    assert context.shelf.adapter_path(picked) is not None


def test_it_is_relabelled_resized_converted_and_verified(ask: Ask, adapter: Path) -> None:
    key = ask("tools_open", path=str(adapter))["file"]
    edited = _finished(
        ask, ask("tools_relabel", file=key, set={"modelspec.title": "= a ; b"}, remove=[])
    )
    again = _finished(ask, {"task": ask("tools_verify", file=edited["made"]["file"])["task"]})
    assert again["result"]["consumers"]
    resized = _finished(ask, ask("tools_resize", file=edited["made"]["file"], rank="2"))
    assert resized["result"]["max_error"] >= 0 and resized["made"]["name"].endswith(
        "resized.safetensors"
    )
    converted = _finished(ask, ask("tools_convert", file=key, to="diffusers"))
    assert converted["made"]["size"]


@pytest.mark.parametrize(
    ("name", "request_", "told"),
    [
        ("tools_open", {}, "Drop a file"),
        ("tools_open", {"path": "/no/such.safetensors"}, "no such"),
        ("tools_open", {"upload": "x"}, "upload is gone"),
        ("tools_verify", {"file": "x"}, "file is gone"),
        ("tools_convert", {"to": "ckpt"}, "Format"),
        ("tools_resize", {"file": "x"}, "gone"),
        ("tools_extract", {"tuned": "a"}, "paths of the tuned"),
        ("tools_extract", {"tuned": "a", "base": "b", "rank": "x; rm"}, "Rank: type a number"),
        ("tools_task", {"task": "x"}, "job is gone"),
        ("tools_keep", {}, "gone"),
    ],
)
def test_a_wrong_question_is_one_sentence(
    ask: Ask, name: str, request_: dict[str, Any], told: str
) -> None:
    answer = ask(name, **request_)
    assert set(answer) == {"error"} and told in answer["error"] and "\n" not in answer["error"]


def test_a_broken_file_is_one_sentence(ask: Ask, tmp_path: Path) -> None:
    broken = tmp_path / "a.safetensors"
    for content in (b"", b"\x80\x04pickle", b"<html>", b"\xff" * 100):
        broken.write_bytes(content)
        answer = ask("tools_open", path=str(broken))
        assert set(answer) == {"error"} and "a.safetensors" in answer["error"]


def test_settings_name_the_folders(ask: Ask, context: Context) -> None:
    told = ask("settings_show")
    folders = {each["label"]: each["path"] for each in told["folders"]}
    assert folders["Runs"] == str(context.runs) and folders["Base models"] == "none given"
    assert [each["name"] for each in told["defaults"]] == [
        "model.device", "model.precision", "model.attention", "save.dtype"
    ]  # fmt: skip
    assert _finished(ask, told)["result"]["findings"]
