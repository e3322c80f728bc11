"""The gate around the whole studio: who may speak to it, and what it lets out.

One plain ASGI wrapper stands before every route, Gradio's included, so that nothing depends on a
framework's own checks. A request passes only if

1. its `Host` is exactly an address the studio was opened on (a page that rebinds its name to
   127.0.0.1 still sends its own name),
2. its `Origin` and `Sec-Fetch-Site`, where a browser sends them, are the studio's own,
3. it carries this launch's session cookie, which only the printed link or the password gives,
4. its path is one that the studio uses, and its body is small; only an upload's may be large,
   which `uploads` limits as it streams.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode

import psutil

from lora_diffusion.errors import InputError, printable
from ui.gate import doors
from ui.gate.uploads import PATH as UPLOAD_PATH

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 1 << 20
BODY_SECONDS = 20.0
WRONG_PASSWORD_SECONDS = 1.0
LOGIN_PATH = "/studio/login"

# Everything that the page needs. Gradio's own uploads and file route, proxies and tools are not
# among it.
_OPEN_PATHS = re.compile(
    r"/(?:"
    r"|favicon\.ico|manifest\.json|config/?|theme\.css"
    r"|(?:assets|static|svelte)/[\w./-]+"
    r"|studio/(?:static|picture|adapter|login|upload)(?:/[\w.-]+)?"
    r"|gradio_api/(?:startup-events|info/?|app_id/?|cancel|reset/?|theme\.css|user/?|token/?"
    r"|login_check/?|component_server/?|heartbeat/[\w-]+|queue/(?:join/?|data|status))"
    r")"
)
_SCRIPT_TAG = re.compile(rb"<script(?=[\s>])")


@dataclass(frozen=True)
class Access:
    """Where the studio listens and what opens it. The secrets are new at each launch."""

    host: str
    port: int
    password: str | None = None
    opening_token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def cookie_name(self) -> str:
        """Cookies are shared between ports of one host, so the port is in the name."""
        return f"studio_{self.port}"

    @property
    def hosts(self) -> frozenset[str]:
        """The `Host` headers that name this studio."""
        names = {"127.0.0.1", "localhost", "[::1]", _bracketed(self.host)}
        if not is_loopback(self.host):
            names |= _own_names()
        hosts = {f"{name}:{self.port}" for name in names}
        return frozenset(hosts | names if self.port == 80 else hosts)

    @property
    def outside_url(self) -> str:
        """The address for other computers; empty where they can't reach the studio."""
        if is_loopback(self.host):
            return ""
        wide = self.host in {"0.0.0.0", "::"}
        name = socket.gethostname().lower() if wide else _bracketed(self.host)
        return f"http://{name}:{self.port}/"

    @property
    def url(self) -> str:
        """The address to print; without a password it carries the opening token."""
        shown = "127.0.0.1" if self.host in {"localhost", "0.0.0.0", "::"} else self.host
        address = f"http://{_bracketed(shown)}:{self.port}/"
        return address if self.password else f"{address}?token={self.opening_token}"


def check_host(host: str, password: str | None) -> None:
    """Refuse to listen beyond this computer without a password.

    Raises:
        InputError: `host` is not a loopback address and there is no password.
    """
    if not is_loopback(host) and not password:
        raise InputError(
            f"--host {printable(host)} lets other computers in, so it needs --password WORD too."
        )


def is_loopback(host: str) -> bool:
    """Whether `host` can only be reached from this computer."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Gate:
    """The ASGI wrapper. `app` sees only requests that passed.

    `head` is put at the start of the page's `<head>`.
    """

    def __init__(self, app: App, access: Access, head: str = "") -> None:
        self._app = app
        self._head = head.encode()
        self._access = access
        self._hosts = access.hosts
        self._password_turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one connection, then pass it on or answer it here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        nonce = secrets.token_urlsafe(16)
        reply = _Reply(send, nonce)
        refusal = self._refusal(scope)
        if refusal is not None:
            await doors.answer(reply, *refusal)
        elif scope["path"] == LOGIN_PATH:
            await self._log_in(scope, receive, reply)
        elif not self._has_session(scope):
            await self._at_the_door(scope, reply)
        elif not _OPEN_PATHS.fullmatch(scope["path"]):
            await doors.answer(reply, 404, "There is nothing at this address.")
        elif scope["path"] == UPLOAD_PATH:
            await self._app(scope, receive, reply)
        else:
            await self._enter(scope, receive, reply)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if scope["method"] not in {"GET", "HEAD", "POST"}:
            return 405, "The studio answers GET, HEAD and POST only."
        hosts = _header(scope, b"host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 403, "This address is not the studio's own. Open the link that it printed."
        origins = _header(scope, b"origin")
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            return 403, "Another site may not speak to the studio."
        sites = _header(scope, b"sec-fetch-site")
        if any(site not in {"same-origin", "none"} for site in sites) and not (
            self._is_page(scope) and self._has_token(scope)
        ):
            return 403, "Another site may not speak to the studio. Open the link that it printed."
        return None

    def _is_page(self, scope: Scope) -> bool:
        return bool(scope["path"] == "/" and scope["method"] == "GET")

    def _has_token(self, scope: Scope) -> bool:
        if self._access.password:
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        return _same(given[0], self._access.opening_token)

    def _has_session(self, scope: Scope) -> bool:
        wanted = self._access.cookie_name
        for line in _header(scope, b"cookie"):
            for pair in line.split(";"):
                name, _, value = pair.strip().partition("=")
                if name == wanted and _same(value, self._access.session):
                    return True
        return False

    async def _at_the_door(self, scope: Scope, reply: _Reply) -> None:
        if not self._is_page(scope):
            await doors.answer(reply, 403, "This needs the studio's own page.")
        elif self._access.password:
            await doors.page(reply, 403, doors.password_page())
        elif self._has_token(scope):
            reply.set_cookie(self._access)
            await doors.page(reply, 200, doors.entering_page(_query_without_token(scope)))
        else:
            await doors.page(reply, 403, doors.CLOSED_PAGE)

    async def _log_in(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        if not self._access.password or scope["method"] != "POST":
            await doors.answer(reply, 403, "There is nothing to log in to here.")
            return
        body = await _read_body(scope, receive)
        given = parse_qs((body or b"").decode("utf-8", "replace")).get("password", [""])[0]
        if _same(given, self._access.password):
            reply.set_cookie(self._access)
            await doors.page(reply, 200, doors.entering_page(""))
            return
        async with self._password_turn:  # one guess at a time, however many connections
            await asyncio.sleep(WRONG_PASSWORD_SECONDS)
        await doors.page(reply, 403, doors.password_page(wrong=True))

    async def _enter(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        body = await _read_body(scope, receive)
        if body is None:
            await doors.answer(reply, 413, "The studio takes no bodies above 1 MB.")
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        if self._is_page(scope):
            reply.mark_page(self._head)
            # uncompressed, so that its scripts can be marked
            kept = [(k, v) for k, v in scope["headers"] if k != b"accept-encoding"]
            scope = {**scope, "headers": kept}
        await self._app(scope, replay, reply)


class _Reply:
    """`send` with the security headers; the page gets its head, its scripts get the nonce."""

    def __init__(self, send: Send, nonce: str) -> None:
        self._send = send
        self._nonce = nonce
        self._cookie: bytes | None = None
        self._start: Message | None = None
        self._page = b""
        self._head: bytes | None = None

    def mark_page(self, head: bytes) -> None:
        """What follows is the studio's page: it gets `head` and its scripts the nonce."""
        self._head = head

    def set_cookie(self, access: Access) -> None:
        """Give this browser the session."""
        self._cookie = (
            f"{access.cookie_name}={access.session}; Path=/; HttpOnly; SameSite=Strict"
        ).encode()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = {**message, "headers": self._headers(message["headers"])}
            if self._head is None:
                await self._send(self._start)
        elif message["type"] == "http.response.body" and self._head is not None:
            self._page += message.get("body", b"")
            if not message.get("more_body"):
                await self._send_page()
        else:
            await self._send(message)

    async def _send_page(self) -> None:
        assert self._start is not None and self._head is not None
        marked = b'<script nonce="' + self._nonce.encode() + b'"'
        page = self._page.replace(b"<head>", b"<head>" + self._head, 1)
        page = _SCRIPT_TAG.sub(marked, page)
        kept = [(k, v) for k, v in self._start["headers"] if k.lower() != b"content-length"]
        length = (b"content-length", str(len(page)).encode())
        await self._send({**self._start, "headers": [*kept, length]})
        await self._send({"type": "http.response.body", "body": page, "more_body": False})

    def _headers(self, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        ours = {
            b"content-security-policy": (
                "default-src 'none'; "
                # Gradio builds its templates with `new Function`, hence unsafe-eval; no inline
                # script runs without the page's nonce.
                f"script-src 'self' 'nonce-{self._nonce}' 'unsafe-eval'; "
                "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
                "font-src 'self' data:; connect-src 'self'; manifest-src 'self'; "
                "form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
            ).encode(),
            b"x-content-type-options": b"nosniff",
            b"x-frame-options": b"DENY",
            b"referrer-policy": b"same-origin",
            b"cross-origin-opener-policy": b"same-origin",
            b"cross-origin-resource-policy": b"same-origin",
            b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
        }
        kept = [
            (name, value)
            for name, value in given
            if name.lower() not in ours and not name.lower().startswith(b"access-control-")
        ]
        if self._head is not None:
            kept.append((b"cache-control", b"no-store"))
        if self._cookie:
            kept.append((b"set-cookie", self._cookie))
        return [*kept, *ours.items()]


async def _read_body(scope: Scope, receive: Receive) -> bytes | None:
    """The whole request body, or None where it is too large or too slow."""
    lengths = _header(scope, b"content-length")
    if any(not n.isdecimal() or int(n) > MAX_BODY_BYTES for n in lengths):
        return None
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    return None
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        return None


def _header(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _query_without_token(scope: Scope) -> str:
    pairs = parse_qs(scope["query_string"].decode("latin-1"))
    kept = {key: values[0] for key, values in pairs.items() if key != "token"}
    return urlencode(kept)


def _same(given: str, wanted: str) -> bool:
    """Compare in a time that tells nothing about either text."""
    a, b = (hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (given, wanted))
    return hmac.compare_digest(a, b)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host.lower()


def _own_names() -> set[str]:
    """This computer's addresses and name, for a studio that listens beyond it."""
    names = {socket.gethostname().lower()}
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family in {socket.AF_INET, socket.AF_INET6}:
                names.add(_bracketed(address.address.split("%")[0]))
    return names
