"""The named endpoints, through `gradio_client` and the gate, as a script uses them."""

from __future__ import annotations

import re
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from gradio_client import Client
from gradio_client.exceptions import AppError

from tests.ui.made_runs import make_run, make_waiting
from trainers import control
from trainers.jobs import RunDir
from ui.context import Context, open_context
from ui.gate.security import Access
from ui.server import listen, secured

_DOCUMENT = Path(__file__).resolve().parents[2] / "docs/studio.md"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Context, str]]:
    """A client of a real server; the queue is looked after by nobody, so nothing starts."""
    runs = tmp_path_factory.mktemp("runs")
    make_run(runs, "finished", steps=8, every=4)
    make_run(runs, "stopped", steps=8, every=4, reached=4, outcome="stopped")
    make_run(runs, "running", steps=8, every=4, reached=4, outcome=None, alive=True)
    make_waiting(runs, "first", "second")
    listening = listen("127.0.0.1", 17_950)
    access = Access("127.0.0.1", listening.getsockname()[1])
    context = open_context(runs, None)
    server = uvicorn.Server(uvicorn.Config(secured(context, access), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.02)
    # as the documentation says: the printed link gives the cookie
    cookie = httpx.get(access.url).headers["set-cookie"].partition(";")[0]
    url = access.url.partition("?")[0]
    yield Client(url, headers={"Cookie": cookie}, verbose=False), context, url
    server.should_exit = True
    thread.join(10)
    context.close()


@pytest.fixture
def call(served: tuple[Client, Context, str]) -> Any:
    """`call(endpoint, **arguments)`."""
    client = served[0]
    return lambda name, **given: client.predict(**given, api_name=f"/{name}")


@pytest.fixture
def context(served: tuple[Client, Context, str]) -> Context:
    """What the server works on."""
    return served[1]


def test_what_is_listed_is_what_is_documented(served: tuple[Client, Context, str]) -> None:
    listed = served[0].view_api(return_format="dict", print_info=False)["named_endpoints"]
    text = _DOCUMENT.read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(/[a-z_]+)\(", text, re.MULTILINE))
    assert documented == set(listed) and len(documented) > 20
    for name, described in listed.items():
        line = next(line for line in text.split("\n") if line.startswith(f"| `{name}("))
        for parameter in described["parameters"]:
            assert re.search(rf"\b{parameter['parameter_name']}\b", line), (name, parameter)


def test_nothing_else_has_a_name(served: tuple[Client, Context, str]) -> None:
    unnamed = served[0].view_api(return_format="dict", print_info=False)["unnamed_endpoints"]
    assert not unnamed


def test_without_the_cookie_there_is_no_way_in(served: tuple[Client, Context, str]) -> None:
    for path in ("config", "gradio_api/info", "gradio_api/queue/join"):
        assert httpx.get(served[2] + path).status_code == 403


def test_settings_are_loaded_checked_and_started(call: Any, context: Context) -> None:
    values = call("load_settings", preset="demo-character")["values"]
    assert {setting["name"] for setting in call("list_settings")} == values.keys()
    values |= {"schedule.steps": "12", "save.name": "by script"}
    assert call("check_settings", values=values)["problems"] == {}
    toml = tomllib.loads(call("settings_as_toml", values=values))
    assert toml["schedule"]["steps"] == 12
    command = call("settings_as_command", values=values, preset="demo-character")
    assert "--schedule.steps 12" in command
    assert call("start_training", values=values) == {"run": "by-script"}
    assert context.queue.names()[-1] == "by-script"
    values["adapter.rank"] = "3"
    assert call("edit_waiting", run="by-script", values=values) == {"run": "by-script"}
    assert RunDir(context.runs / "by-script").spec().adapter.rank == 3
    wrong = call("start_training", values={**values, "adapter.rank": "x"})
    assert wrong["problems"].keys() == {"adapter.rank"}
    assert call("take_out_of_line", run="by-script")["waiting"] == ["first", "second"]


def test_runs_are_listed_shown_and_compared(call: Any) -> None:
    states = {run["id"]: run["status"] for run in call("list_runs")}
    assert states["finished"] == "finished" and states["first"] == "waiting"
    shown = call("show_run", run="finished")
    assert shown["step"] == 8 and len(shown["curve"]["steps"]) == 8
    assert "Training on cpu" in call("run_log", run="finished")
    assert tomllib.loads(call("run_settings", run="finished"))["schedule"]["steps"] == 8
    assert len(call("compare_runs", runs=["finished", "stopped"])["runs"]) == 2
    assert call("explain_run", run="finished")["headline"]
    for name in ("show_run", "run_log", "pause_run"):
        with pytest.raises(AppError, match="That run is gone"):
            call(name, run="../finished")


def test_runs_are_steered(call: Any, context: Context) -> None:
    folder = context.runs / "running/control"
    assert call("pause_run", run="running") == {} and control.is_paused(folder)
    assert call("unpause_run", run="running") == {} and not control.is_paused(folder)
    call("save_run_now", run="running")
    call("sample_run_now", run="running")
    assert control.take(folder) == ["save", "sample"]
    with pytest.raises(AppError, match="has ended already"):
        call("stop_run", run="finished")


def test_the_line_is_ordered(call: Any, context: Context) -> None:
    assert call("move_waiting", run="second", place=0)["waiting"] == ["second", "first"]
    call("resume_run", run="stopped")
    demo = call("run_the_demo")["run"]
    assert context.queue.names() == ["second", "first", "stopped", demo]
    for name in ("stopped", demo):
        call("take_out_of_line", run=name)
