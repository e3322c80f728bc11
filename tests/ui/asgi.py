"""Send one request straight into an ASGI application, header by header as an attacker would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

from ui.gate.security import App, Message

HOST = "127.0.0.1:7860"


@dataclass
class Answer:
    """What came back; `status` 0 means that nothing did."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str:
        """The first header of that name, or nothing."""
        return next((value for key, value in self.headers if key == name), "")


def send(
    app: App,
    method: str,
    path: str,
    headers: Iterable[tuple[str, str]] = (("host", HOST),),
    body: bytes = b"",
    *,
    chunk: int = 1 << 16,
    seconds: float = 5.0,
) -> Answer:
    """One request and its answer. An answer that never ends is cut off after `seconds`."""
    return asyncio.run(send_async(app, method, path, headers, body, chunk=chunk, seconds=seconds))


async def send_async(
    app: App,
    method: str,
    path: str,
    headers: Iterable[tuple[str, str]] = (("host", HOST),),
    body: bytes = b"",
    *,
    chunk: int = 1 << 16,
    seconds: float = 5.0,
) -> Answer:
    """The same within a loop that runs already, for thousands of requests."""
    answer = Answer()
    raw_path, _, query = path.partition("?")
    parts = [body[i : i + chunk] for i in range(0, len(body), chunk)] or [b""]
    scope: Message = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("utf-8", "surrogateescape"),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 7860),
    }

    async def receive() -> Message:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def reply(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = [(k.decode().lower(), v.decode()) for k, v in message["headers"]]
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    try:
        async with asyncio.timeout(seconds):
            await app(scope, receive, reply)
    except TimeoutError:
        pass
    return answer
