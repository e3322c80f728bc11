"""The Dataset tab's endpoints through `gradio_client`, as a script uses them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from gradio_client import Client
from gradio_client.exceptions import AppError

from tests.ui.dataset.conftest import draw
from ui.context import open_context
from ui.gate.security import Access
from ui.server import listen, secured


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """A real server behind its gate."""
    listening = listen("127.0.0.1", 17_990)
    access = Access("127.0.0.1", listening.getsockname()[1])
    context = open_context(tmp_path_factory.mktemp("studio") / "runs", None)
    server = uvicorn.Server(uvicorn.Config(secured(context, access), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield access
    server.should_exit = True
    thread.join(10)
    context.close()


@pytest.fixture(scope="module")
def cookie(server: Access) -> str:
    return httpx.get(server.url).headers["set-cookie"].partition(";")[0]


@pytest.fixture(scope="module")
def call(server: Access, cookie: str) -> Any:
    """`call(endpoint, **arguments)`."""
    url = server.url.partition("?")[0]
    client = Client(url, headers={"Cookie": cookie}, verbose=False)
    return lambda name, /, **given: client.predict(**given, api_name=f"/dataset_{name}")


def test_a_script_edits_and_undoes(call: Any, pictures: Path) -> None:
    before = {path: path.read_bytes() for path in pictures.glob("[!.]*")}
    data = call("open", folder=str(pictures))["data"]
    page = call("page", data=data, filter={"query": "number 1"})
    assert page["total"] == 1
    picked = page["items"][0]["id"]
    call("save", data=data, id=picked, text="by script")
    assert (pictures / "1.txt").read_text() == "by script\n"
    assert call("detail", data=data, id=picked)["text"] == "by script"
    edit = {"kind": "suffix", "text": ", sharp"}
    shown = call("edit", data=data, edit=edit)
    assert shown["captions"] == 5
    call("edit_apply", data=data, edit=edit, digest=shown["digest"])
    call("crop", data=data, id=picked, box=[0, 0, 0.5, 0.5])
    call("turn", data=data, id=picked, turn="left")
    call("fix", data=data, kind="duplicate")
    call("exclude", data=data, id=picked)
    assert call("summary", data=data)["total"] == 4
    while call("summary", data=data)["undo"]:
        call("undo", data=data)
    assert {path: path.read_bytes() for path in pictures.glob("[!.]*")} == before


def test_a_script_looks(call: Any, pictures: Path) -> None:
    data = call("open", folder=str(pictures))["data"]
    assert call("tags", data=data)["tags"][0]["count"] == 5
    assert call("buckets", data=data, side_px=256)["side_px"] == 256
    assert call("tokens", text="a cat")["limit"] == 75
    task = call("captioners")["task"]
    while (told := call("task", task=task))["state"] == "running":
        time.sleep(0.2)
    assert "template" in {each["name"] for each in told["result"]["captioners"]}


def test_a_script_uploads_and_captions(
    call: Any, server: Access, cookie: str, tmp_path: Path
) -> None:
    draw(tmp_path / "a.png", 1)
    sent = httpx.post(
        f"{server.url.partition('?')[0]}studio/upload?name=a.png",
        content=(tmp_path / "a.png").read_bytes(), headers={"Cookie": cookie},
    )  # fmt: skip
    told = call("add", files=[{"id": sent.json()["id"], "path": "a.png"}], name="new")
    data = told["data"]
    assert told["total"] == 1
    call("caption", data=data, captioner="template", settings={"template": "a thing"})
    while (told := call("summary", data=data))["captioning"]["state"] == "running":
        time.sleep(0.2)
    assert told["drafts"] == 1
    call("keep", data=data, all=True)
    assert call("page", data=data)["items"][0]["caption"] == "a thing"


def test_what_is_wrong_is_one_sentence(call: Any) -> None:
    for name, given in (
        ("open", {"folder": "/no/such"}), ("summary", {"data": "x"}), ("task", {"task": "x"})
    ):  # fmt: skip
        with pytest.raises(AppError) as told:
            call(name, **given)
        assert "\n" not in str(told.value)
