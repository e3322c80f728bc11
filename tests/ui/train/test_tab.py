"""What the Train page may ask, and what it is answered."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lora_diffusion.errors import InputError
from lora_diffusion.formats.metadata import TrainingFacts, build_metadata
from tests.ui.made_runs import make_run, make_waiting
from trainers.jobs import RunDir
from trainers.layering import build_spec, to_toml
from trainers.planner.probe import Cancelled, Probe
from ui import measuring
from ui.context import Context
from ui.train.tab import server_functions


@pytest.fixture
def ask(context: Context) -> Any:
    """`ask(name, request)`."""
    functions = {f.__name__: f for f in server_functions(context)}
    return lambda name, request=None: functions[name](request)


@pytest.fixture
def values(ask: Any) -> dict[str, str]:
    """What the form begins with."""
    return dict(ask("studio_form", {})["values"])


def test_names_cannot_clash_with_gradios_attributes(context: Context) -> None:
    assert all(f.__name__.startswith("studio_") for f in server_functions(context))


def test_the_form_begins_valid_with_an_estimate_and_pictures(
    ask: Any, values: dict[str, str]
) -> None:
    answer = ask("studio_check", {"values": values})
    assert answer["problems"] == {} and answer["waits"] is False
    assert "GB" in answer["memory"]["text"] and answer["memory"]["fits"]
    assert answer["duration"]["seconds"] is None
    assert len(answer["pictures"]["shown"]) == 14
    assert answer["pictures"]["shown"][0]["url"].startswith("/studio/picture/")


def test_time_is_told_by_a_run_like_it(ask: Any, runs: Path, values: dict[str, str]) -> None:
    texts = ask("studio_load", {"preset": "demo-character"})["values"]
    make_run(runs, "earlier", steps=100)
    spec = tomllib.loads(ask("studio_toml", {"values": texts})["text"])
    RunDir(runs / "earlier").spec_file.write_text(to_toml(build_spec([spec])))
    texts["schedule.steps"] = "1000"
    answer = ask("studio_check", {"values": texts})["duration"]
    assert answer["seconds"] == pytest.approx(300, rel=0.1) and "earlier" in answer["note"]
    (runs / "ranks").mkdir()
    (runs / "ranks/sweep.json").write_text("{}")
    (runs / "earlier").rename(runs / "ranks/earlier")  # it took turns with others
    assert ask("studio_check", {"values": texts})["duration"]["seconds"] is None
    (runs / "ranks/earlier").rename(runs / "earlier")
    texts["adapter.kind"] = "dora"
    assert ask("studio_check", {"values": texts})["duration"]["seconds"] is None


def test_a_run_goes_into_the_line(ask: Any, context: Context, values: dict[str, str]) -> None:
    values |= {"save.name": "my cat", "schedule.steps": "30"}
    assert ask("studio_submit", {"values": values}) == {"run": "my-cat"}
    assert context.queue.names() == ["my-cat"]
    assert RunDir(context.runs / "my-cat").spec().schedule.steps == 30
    assert ask("studio_check", {"values": values})["waits"] is True


def test_wrong_settings_start_nothing(ask: Any, context: Context, values: dict[str, str]) -> None:
    values["optim.lr_unet"] = "fast"
    answer = ask("studio_submit", {"values": values})
    assert answer == {"problems": {"optim.lr_unet": "Must be a valid number."}}
    assert not context.queue.names() and not list(context.runs.glob("*/"))


def test_a_waiting_run_is_edited_and_a_begun_one_is_not(
    ask: Any, context: Context, values: dict[str, str]
) -> None:
    make_waiting(context.runs, "waiting")
    make_run(context.runs, "finished", steps=4)
    loaded = ask("studio_load", {"run": "waiting"})["values"]
    loaded["adapter.rank"] = "5"
    assert ask("studio_submit", {"values": loaded, "edit": "waiting"}) == {"run": "waiting"}
    assert RunDir(context.runs / "waiting").spec().adapter.rank == 5
    assert context.queue.names() == ["waiting"]
    for name in ("finished", "../waiting", "gone", 3):
        before = RunDir(context.runs / "finished").spec_file.read_bytes()
        assert "has begun" in ask("studio_submit", {"values": loaded, "edit": name})["error"]
        assert RunDir(context.runs / "finished").spec_file.read_bytes() == before


def _upload(context: Context, name: str, content: bytes) -> str:
    async def parts() -> AsyncIterator[bytes]:
        yield content

    return asyncio.run(context.uploads.take(name, parts()))


def _adapter(path: Path, metadata: dict[str, str]) -> bytes:
    save_file({"a": np.zeros((2, 2), np.float32)}, path, metadata=metadata)
    return path.read_bytes()


def test_settings_are_loaded_from_toml_kohya_and_adapters(
    ask: Any, context: Context, tmp_path: Path
) -> None:
    spec = build_spec([{"adapter": {"rank": 7}, "schedule": {"steps": 9}}])
    facts = TrainingFacts(title="x", rank=7, job=to_toml(spec))
    kohya = {
        "network_module": "networks.lora", "network_dim": 7, "max_train_steps": 9,
        "pretrained_model_name_or_path": "/m.safetensors", "mystery": 3,
    }  # fmt: skip
    theirs = {
        "ss_network_module": "networks.lora", "ss_network_dim": "7", "ss_network_alpha": "4",
        "ss_max_train_steps": "9", "ss_unet_lr": "0.0003", "ss_text_encoder_lr": "None",
        "ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.1,betas=(0.9, 0.99))",
        "ss_resolution": "(512, 512)",
    }  # fmt: skip
    files = {
        "ours.toml": to_toml(spec).encode(),
        "theirs.json": json.dumps(kohya).encode(),
        "ours.SAFETENSORS": _adapter(tmp_path / "a.safetensors", build_metadata(facts)),
        "theirs.safetensors": _adapter(tmp_path / "b.safetensors", theirs),
    }
    for name, content in files.items():
        answer = ask("studio_load", {"upload": _upload(context, name, content)})
        loaded = answer["values"]
        assert (loaded["adapter.rank"], loaded["schedule.steps"]) == ("7", "9"), name
        assert bool(answer["notes"]) == (name == "theirs.json"), answer["notes"]
    assert (loaded["optim.lr_unet"], loaded["optim.weight_decay"]) == ("0.0003", "0.1")
    assert (loaded["optim.beta2"], loaded["data.resolution_px"]) == ("0.99", "512")
    assert not list(context.uploads._scratch().iterdir())
    (tmp_path / "c.toml").write_bytes(files["ours.toml"])
    assert ask("studio_load", {"path": f" {tmp_path / 'c.toml'} "})["values"]["adapter.rank"] == "7"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"x", "is not a settings file"),
        ("a.toml", b"[", "a.toml: is not valid TOML"),
        ("a.json", b"{}", "a.json: is not a configuration"),
        ("a.safetensors", b"x", "a.safetensors"),
        ("a.toml", b"[adapter]\nrank = -1", "adapter.rank"),
    ],
)
def test_a_file_that_tells_no_settings_is_one_sentence(
    ask: Any, context: Context, name: str, content: bytes, told: str
) -> None:
    answer = ask("studio_load", {"upload": _upload(context, name, content)})
    assert told in answer["error"] and str(context.uploads._scratch()) not in answer["error"]


@pytest.mark.parametrize(
    "request_", [None, [], {"values": None}, {"values": {"a": 3}}, {"values": ["x"]}]
)
@pytest.mark.parametrize("name", ["studio_check", "studio_submit", "studio_command", "studio_toml"])
def test_odd_requests_get_one_sentence(ask: Any, name: str, request_: Any) -> None:
    assert "Reload the page" in ask(name, request_)["error"]


@pytest.mark.parametrize("request_", [None, {}, {"preset": "../x"}, {"run": "x"}, {"upload": "x"}])
def test_odd_loads_get_one_sentence(ask: Any, request_: Any) -> None:
    assert ask("studio_load", request_)["error"]


def test_toml_and_command(ask: Any, values: dict[str, str]) -> None:
    answer = ask("studio_toml", {"values": values})
    assert answer["name"] == "demo-character.toml"
    assert build_spec([tomllib.loads(answer["text"])]).schedule.steps == int(
        values["schedule.steps"]
    )
    words = ask("studio_command", {"values": values, "preset": "demo-character"})["text"]
    assert words.startswith("python -m trainers.dreambooth_lora --preset demo-character")


def _probe(step_seconds: float) -> Probe:
    return Probe("cpu", 8, 64, 64, 2**30, 2**20, 2**29, 2**30, step_seconds)


def _wait(ask: Any) -> Any:
    for _ in range(200):
        answer = ask("studio_measured")
        if answer["state"] != "running":
            return answer
        time.sleep(0.02)
    raise AssertionError("it measures forever")


def test_measuring_on_request(
    ask: Any, values: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    began = threading.Event()

    def measure(spec: Any, *, on_progress: Any, is_cancelled: Any) -> Probe:
        on_progress("opening the base")
        began.wait(5)
        if is_cancelled():
            raise Cancelled
        if spec.adapter.rank == 5:
            raise InputError("The graphics card ran out of memory.")
        return _probe(0.5)

    monkeypatch.setattr(measuring, "probe", measure)
    assert ask("studio_measured")["state"] == "idle"
    values["schedule.steps"] = "100"
    assert ask("studio_measure", {"values": values})["state"] == "running"
    assert "already" in ask("studio_measure", {"values": values})["error"]
    began.set()
    told = _wait(ask)
    assert told["seconds"] == 50 and "1.5 GB" in told["text"] and "0.50 s a step" in told["text"]
    ask("studio_measure", {"values": {**values, "adapter.rank": "5"}})
    assert _wait(ask) == {
        "state": "failed", "text": "The graphics card ran out of memory.", "seconds": None
    }  # fmt: skip
    began.clear()
    ask("studio_measure", {"values": values})
    assert ask("studio_measure_no_more") == {}
    began.set()
    assert _wait(ask)["state"] == "idle"


def test_nothing_is_measured_beside_a_run(ask: Any, runs: Path, values: dict[str, str]) -> None:
    make_run(runs, "running", steps=8, reached=4, outcome=None, alive=True)
    assert "A run is working" in ask("studio_measure", {"values": values})["error"]
