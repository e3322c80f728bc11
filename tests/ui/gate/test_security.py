"""The gate, against every route that the application really has."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute, Mount, Route

import app as app_module
from app import main
from tests.ui.asgi import HOST, Answer, send, send_async
from tests.ui.made_runs import make_run
from ui.context import Context, open_context
from ui.gate import security
from ui.gate.security import Access, Gate, Message, Receive, Send, check_host, is_loopback
from ui.server import make_app
from ui.studio import HEAD

ACCESS = Access("127.0.0.1", 7860)
COOKIE = ("cookie", f"{ACCESS.cookie_name}={ACCESS.session}")
OURS = [("host", HOST), COOKIE]


class Recorder:
    """Stands in for the application and notes what reached it."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.reached.append(f"{scope['method']} {scope['path']}")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"reached"})


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> tuple[FastAPI, Context]:
    """The real application without its gate."""
    runs = tmp_path_factory.mktemp("runs")
    make_run(runs, "finished", steps=4, every=2)
    context = open_context(runs, None)
    return make_app(context), context


@pytest.fixture(scope="module")
def every_route(studio: tuple[FastAPI, Context]) -> list[tuple[str, str]]:
    """(method, path) of the real route table, mounts included, parameters filled in."""
    return _table(studio[0].routes)


def _table(routes: list[BaseRoute], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for route in routes:
        if isinstance(route, Mount):
            found += _table(list(route.routes), prefix + route.path)
        elif isinstance(route, Route):
            path = prefix + re.sub(r"\{[^}]*\}", "x", route.path)
            found += [(method, path) for method in sorted(route.methods or {"GET"})]
        else:
            # FastAPI keeps an included router whole; its paths already carry their prefix.
            nested = getattr(route, "original_router", None)
            assert nested is not None, f"a kind of route this test does not know: {route!r}"
            found += _table(list(nested.routes), prefix)
    return found


FOREIGN_HOSTS = (
    "evil.com", "evil.com:7860", "127.0.0.1", "127.0.0.1:7861", "localhost", "127.0.0.1:7860.evil",
    "127.0.0.1.evil.com:7860", "0.0.0.0:7860", "[::]:7860", "user@127.0.0.1:7860", "", "127.1:7860",
    "127.0.0.1:7860,evil.com", "2130706433:7860",
)  # fmt: skip
FOREIGN_ORIGINS = (
    "http://evil.com", "null", "https://127.0.0.1:7860", "http://127.0.0.1", "http://localhost:7860",
    "http://127.0.0.1:7861", "http://127.0.0.1:7860.evil.com", "file://", "",
)  # fmt: skip


def test_the_table_holds_gradios_routes_too(every_route: list[tuple[str, str]]) -> None:
    paths = {path for _, path in every_route}
    for known in (
        "upload",
        "queue/join",
        "queue/data",
        "file=x",
        "component_server",
        "startup-events",
    ):
        assert f"/gradio_api/{known}" in paths
    assert {"/studio/picture/x", "/studio/adapter/x", "/studio/static/x"} <= paths
    assert len(every_route) > 60


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_foreign_host(every_route: list[tuple[str, str]], host: str) -> None:
    assert _all_refused(every_route, [("host", host), COOKIE])


def test_host_missing_or_twice(every_route: list[tuple[str, str]]) -> None:
    assert _all_refused(every_route, [COOKIE])
    assert _all_refused(every_route, [("host", HOST), ("host", "evil.com"), COOKIE])


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_foreign_origin(every_route: list[tuple[str, str]], origin: str) -> None:
    assert _all_refused(every_route, [*OURS, ("origin", origin)])


@pytest.mark.parametrize("site", ["cross-site", "same-site", "unknown"])
def test_foreign_site(every_route: list[tuple[str, str]], site: str) -> None:
    """`same-site` is another port of this computer: not ours either."""
    assert _all_refused(every_route, [*OURS, ("sec-fetch-site", site)])


@pytest.mark.parametrize(
    "cookie",
    [
        None,
        f"{ACCESS.cookie_name}=",
        f"{ACCESS.cookie_name}={ACCESS.opening_token}",
        f"other={ACCESS.session}",
        f"{ACCESS.cookie_name}={ACCESS.session}x",
        f"{ACCESS.cookie_name}={ACCESS.session[:-1]}",
    ],
    ids=["none", "empty", "the opening token", "another name", "longer", "shorter"],
)
def test_missing_or_wrong_session(every_route: list[tuple[str, str]], cookie: str | None) -> None:
    headers = [("host", HOST), *([("cookie", cookie)] if cookie else [])]
    assert _all_refused(every_route, headers)


def test_other_methods(every_route: list[tuple[str, str]]) -> None:
    paths = {path for _, path in every_route}
    for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "get"):
        assert _all_refused([(method, path) for path in paths], OURS)


def test_websockets_are_closed() -> None:
    sent = []

    async def note(message: Message) -> None:
        sent.append(message["type"])

    async def nothing() -> Message:
        return {"type": "websocket.connect"}

    recorder = Recorder()
    asyncio.run(Gate(recorder, ACCESS)({"type": "websocket", "path": "/"}, nothing, note))
    assert sent == ["websocket.close"] and not recorder.reached


def test_own_requests_pass_and_unused_routes_do_not(every_route: list[tuple[str, str]]) -> None:
    recorder = Recorder()
    gate = Gate(recorder, ACCESS)
    same = [*OURS, ("origin", f"http://{HOST}"), ("sec-fetch-site", "same-origin")]
    for method, path in every_route:
        answer = send(gate, method, path, same)
        unused = re.search(
            r"gradio_api/upload|file[=/]|proxy|stream/|vibe|monitoring|deep_link|/runs|call/", path
        )
        if unused:
            assert answer.status == 404, path
    for wanted in ("GET /", "POST /gradio_api/queue/join", "GET /gradio_api/queue/data",
                   "POST /gradio_api/component_server", "GET /studio/picture/x"):  # fmt: skip
        assert wanted in recorder.reached


def test_every_answer_carries_the_security_headers(every_route: list[tuple[str, str]]) -> None:
    gate = Gate(Recorder(), ACCESS)
    for headers in (OURS, [("host", "evil.com")], [("host", HOST)]):
        for method, path in every_route:
            answer = send(gate, method, path, headers)
            assert "frame-ancestors 'none'" in answer.header("content-security-policy"), path
            assert answer.header("x-content-type-options") == "nosniff"
            assert answer.header("referrer-policy") == "same-origin"
            assert not answer.header("access-control-allow-origin")


def test_the_page_runs_marked_scripts_only(studio: tuple[FastAPI, Context]) -> None:
    answer = send(Gate(studio[0], ACCESS, HEAD), "GET", "/", [*OURS, ("accept-encoding", "br")])
    policy = answer.header("content-security-policy")
    nonce = re.search(r"'nonce-([^']+)'", policy)
    assert answer.status == 200 and nonce
    scripts = re.findall(rb"<script[^>]*>", answer.body)
    assert len(scripts) > 4
    assert all(f'nonce="{nonce[1]}"'.encode() in tag for tag in scripts)
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert answer.header("cache-control") == "no-store"
    assert int(answer.header("content-length")) == len(answer.body)


def test_the_printed_link_lets_a_browser_in() -> None:
    gate = Gate(Recorder(), ACCESS, HEAD)
    closed = send(gate, "GET", "/")
    assert closed.status == 403 and b"link" in closed.body and b"<script" not in closed.body
    assert closed.header("cache-control") == "no-store"
    assert send(gate, "GET", "/?token=wrong").status == 403
    path = ACCESS.url.removeprefix(f"http://{HOST}")
    opened = send(gate, "GET", path + "&tab=runs&run=%22%3E%3Cscript%3E")
    cookie = opened.header("set-cookie")
    assert opened.status == 200
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and ACCESS.session in cookie
    assert ACCESS.opening_token.encode() not in opened.body
    assert b"url=/?tab=runs" in opened.body and b"<script>" not in opened.body
    from_elsewhere = [("host", HOST), ("sec-fetch-site", "cross-site")]
    assert send(gate, "GET", path, from_elsewhere).status == 200
    assert send(gate, "POST", path, from_elsewhere).status == 403


def test_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "WRONG_PASSWORD_SECONDS", 0.01)
    access = Access("127.0.0.1", 7860, password="pass wörd")
    assert access.opening_token not in access.url
    recorder = Recorder()
    gate = Gate(recorder, access)
    asked = send(gate, "GET", f"/?token={access.opening_token}")
    assert asked.status == 403 and b"Password" in asked.body and not asked.header("set-cookie")
    for wrong in (b"", b"password=", b"password=pass", b"password=pass+w%C3%B6rd%00"):
        answer = send(gate, "POST", "/studio/login", body=wrong)
        assert answer.status == 403 and not answer.header("set-cookie")
    right = send(gate, "POST", "/studio/login", body=b"password=pass+w%C3%B6rd")
    assert right.status == 200 and access.session in right.header("set-cookie")
    assert send(gate, "GET", "/studio/login").status == 403
    foreign = [("host", HOST), ("origin", "http://evil.com")]
    refused = send(gate, "POST", "/studio/login", foreign, b"password=pass+w%C3%B6rd")
    assert refused.status == 403 and not refused.header("set-cookie")
    assert not recorder.reached


def test_large_and_slow_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    gate = Gate(recorder, ACCESS)
    path = "/gradio_api/queue/join"
    large = b"x" * (security.MAX_BODY_BYTES + 1)
    assert send(gate, "POST", path, OURS, large).status == 413
    assert send(gate, "POST", path, [*OURS, ("content-length", "9" * 12)]).status == 413
    assert send(gate, "POST", path, [*OURS, ("content-length", "-1")]).status == 413
    assert not recorder.reached
    assert send(gate, "POST", path, OURS, large[:-1]).status == 200
    assert len(recorder.reached) == 1


def _combinations(seed: int, count: int) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(method, headers) that no page of the studio sends: at least one thing in each is foreign."""
    dice = random.Random(seed)
    own_hosts = [*ACCESS.hosts]
    while count:
        host = dice.choice([*FOREIGN_HOSTS, *own_hosts])
        origin = dice.choice([None, f"http://{host}", *FOREIGN_ORIGINS])
        site = dice.choice([None, "same-origin", "none", "same-site", "cross-site"])
        cookie = dice.choice([None, COOKIE, ("cookie", f"{ACCESS.cookie_name}=wrong")])
        method = dice.choice(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
        ours = (
            host in own_hosts
            and origin in {None, f"http://{host}"}
            and site in {None, "same-origin", "none"}
            and cookie == COOKIE
            and method in {"GET", "HEAD", "POST"}
        )
        if ours:
            continue
        count -= 1
        given = [("origin", origin), ("sec-fetch-site", site)]
        more = [(name, value) for name, value in given if value is not None]
        kind = dice.choice(["application/json", "text/plain", "multipart/form-data; boundary=b"])
        yield method, [("host", host), *more, *([cookie] if cookie else []), ("content-type", kind)]


def test_500_combinations_over_every_route_reach_nothing(
    studio: tuple[FastAPI, Context], every_route: list[tuple[str, str]]
) -> None:
    """Whatever is foreign in Host, Origin, site, cookie or method: no route is reached."""
    recorder = Recorder()
    gate = Gate(recorder, ACCESS)
    paths = sorted({path for _, path in every_route})
    tried = 0

    async def all_of_them() -> None:
        nonlocal tried
        for method, headers in _combinations(seed=1, count=500):
            for path in paths:
                answer = await send_async(gate, method, path, headers, b"{}")
                assert answer.status in {403, 405}, (method, path, headers)
                tried += 1

    asyncio.run(all_of_them())
    assert tried == 500 * len(paths) and not recorder.reached


def test_foreign_requests_have_no_side_effect(studio: tuple[FastAPI, Context]) -> None:
    """The same against the real application: no file is made, nothing is queued or uploaded."""
    app, context = studio
    gate = Gate(app, ACCESS, HEAD)
    before = _snapshot(context.runs)
    demo = json.dumps({"data": [], "fn_index": 0, "session_hash": "x", "api_name": "run_the_demo"})

    async def all_of_them() -> None:
        for method, headers in _combinations(seed=2, count=100):
            for path in (
                "/gradio_api/queue/join", "/gradio_api/component_server", "/studio/upload?name=a",
                "/gradio_api/call/run_the_demo", "/gradio_api/run/run_the_demo",
            ):  # fmt: skip
                answer = await send_async(gate, method, path, headers, demo.encode())
                assert answer.status in {403, 405}

    asyncio.run(all_of_them())
    assert _snapshot(context.runs) == before and not context.queue.names()
    assert context.uploads.is_empty


def _snapshot(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(p), p.stat().st_mtime_ns) for p in folder.rglob("*"))


def test_2000_paths_read_nothing_outside(studio: tuple[FastAPI, Context], tmp_path: Path) -> None:
    canary = tmp_path / "canary.txt"
    canary.write_text("canary-7f3a")
    app, context = studio
    gate = Gate(app, ACCESS, HEAD)
    inside_run = next(context.runs.glob("*/spec.toml"))
    targets = [
        canary, inside_run, Path("/etc/hostname"), Path(__file__), Path("/proc/self/environ"),
        Path("/etc/passwd"), context.runs / "queue.json", Path(app_module.__file__),
    ]  # fmt: skip
    secrets = [t.read_bytes()[:40] for t in targets if t.is_file() and t.read_bytes()[:40]]
    payloads = list(dict.fromkeys(p for target in targets for p in _payloads(target)))
    assert len(payloads) >= 2_000

    async def all_of_them() -> None:
        for payload in payloads:
            answer = await send_async(gate, "GET", payload, OURS)
            assert answer.status in {400, 403, 404, 405}, payload
            assert not any(secret in answer.body for secret in secrets), payload

    asyncio.run(all_of_them())


def _payloads(target: Path) -> list[str]:
    plain = str(target)
    bare = plain.lstrip("/")
    up = "../" * 12 + bare
    names = [
        plain, up, up.replace("../", "..%2f"), up.replace("../", "..\\"), f"x/../..{plain}",
        plain.replace("/", "%2f"), "....//" * 8 + plain, f"file://{plain}", f"{plain}\x00.png",
        "%2e%2e/" * 8 + bare, "%252e%252e%252f" * 8 + bare, "..%c0%af" * 8 + bare,
        "..;/" * 8 + bare, "//" + bare, f"\\\\localhost\\{bare}", "..%5c" * 8 + bare,
        f"%00{plain}", f"studio.js/../{up}", f"studio.css%00{plain}", f"C:{plain}",
        "\uff0e\uff0e/" * 8 + bare, "~root" + plain, f"{plain}/", f"{plain}?x=.png",
    ]  # fmt: skip
    routes = (
        "/studio/static/", "/studio/picture/", "/studio/adapter/", "/gradio_api/file=",
        "/gradio_api/file/", "/static/", "/assets/", "/svelte/", "/gradio_api/proxy=", "/",
        "/gradio_api/custom_component/", "/studio/upload/",
    )  # fmt: skip
    return [route + name for route in routes for name in names]


def test_the_file_route_is_shut_even_for_the_own_page(studio: tuple[FastAPI, Context]) -> None:
    gate = Gate(studio[0], ACCESS)
    part = b'Content-Disposition: form-data; name="files"; filename="a.html"\r\n\r\nx'
    body = b"--b\r\n" + part + b"\r\n--b--\r\n"
    kind = ("content-type", "multipart/form-data; boundary=b")
    assert send(gate, "POST", "/gradio_api/upload", [*OURS, kind], body).status == 404
    assert send(gate, "GET", "/gradio_api/file=/etc/hostname", OURS).status == 404


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.4", "example.com", "", "127.0.0.1.evil.com"]
)
def test_beyond_this_computer_needs_a_password(
    host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--host", host, "--no-browser"]) == 2
    told = capsys.readouterr().err
    assert "--password" in told and told.count("\n") == 1
    check_host(host, "word")


def test_loopback_addresses() -> None:
    assert all(
        is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2", "[::1]")
    )
    wide = Access("0.0.0.0", 7860, password="x")
    assert "127.0.0.1:7860" in wide.hosts and "evil.com:7860" not in wide.hosts
    assert wide.outside_url.endswith(":7860/") and not Access("127.0.0.1", 7860).outside_url
    assert Access("::1", 80).url.startswith("http://[::1]:80/")


def test_secrets_are_new_each_launch_and_not_in_the_repr() -> None:
    one, other = Access("127.0.0.1", 1), Access("127.0.0.1", 1)
    assert one.session != other.session and one.opening_token != other.opening_token
    assert one.session not in repr(one) and one.opening_token not in repr(one)


def _all_refused(routes: list[tuple[str, str]], headers: list[tuple[str, str]]) -> bool:
    recorder = Recorder()
    gate = Gate(recorder, ACCESS)
    answers: list[tuple[str, Answer]] = []
    for method, path in routes:
        answers.append((path, send(gate, method, path, headers, b"{}")))
    wrong = [(path, a.status) for path, a in answers if a.status not in {403, 405}]
    assert not wrong and not recorder.reached
    return True
