"""Where the studio listens, and its own few routes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import app
from lora_diffusion.errors import InputError
from tests.ui.asgi import send
from tests.ui.made_runs import make_run, picture
from ui.context import Context
from ui.server import listen, make_app


def test_a_taken_port_leads_to_the_next_free_one() -> None:
    first = listen("127.0.0.1", 17_860)
    port = first.getsockname()[1]
    with first, listen("127.0.0.1", port) as second:
        assert second.getsockname()[1] > port


def test_no_free_port_and_no_such_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.server._PORTS_TRIED", 1)
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(InputError, match="--port"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(InputError, match="--port"):
        listen("203.0.113.7", 17_860)


def test_own_routes(context: Context, tmp_path: Path) -> None:
    studio = make_app(context)
    script = send(studio, "GET", "/studio/static/studio.js")
    assert script.status == 200 and script.header("content-type").startswith("text/javascript")
    for path in ("/studio/static/x.js", "/studio/static/..%2fserver.py", "/studio/picture/x",
                 "/studio/adapter/x", "/docs", "/openapi.json", "/redoc"):  # fmt: skip
        assert send(studio, "GET", path).status == 404, path
    picture(tmp_path / "a.png", 1, "#123456")
    url = context.shelf.picture(tmp_path / "a.png", 32)
    assert url is not None
    shown = send(studio, "GET", url)
    assert shown.header("content-type") == "image/png" and shown.body.startswith(b"\x89PNG")


def test_a_download_carries_the_files_own_name_and_bytes(context: Context) -> None:
    run = make_run(context.runs, "mönster", steps=4)
    path = run.adapter_file(run.spec())
    url = context.shelf.adapter(path)
    assert url is not None
    answer = send(make_app(context), "GET", url)
    assert answer.body == path.read_bytes()
    assert answer.header("content-disposition").startswith("attachment")
    assert answer.header("content-type") == "application/octet-stream"
    path.unlink()
    assert send(make_app(context), "GET", url).status == 404


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--port", "0"], "--port 0"),
        (["--port", "70000"], "--port 70000"),
        (["--models", "/no/such/folder"], "--models"),
        (["--runs", "/proc/nope/runs"], "--runs"),
    ],
)
def test_wrong_options_end_with_one_sentence(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main([*options, "--no-browser"]) == 2
    text = capsys.readouterr().err
    assert told in text and text.count("\n") == 1 and "Traceback" not in text
