"""The few pages the gate itself answers with: closed, password, entering."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_STYLE = """
:root { color-scheme: light dark; --page: #f4f4f2; --card: #fff; --line: #e4e4e1;
  --text: #1b1d20; --muted: #5c5f63; --accent: #2f4bd8; --on: #fff; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --page: #131416; --card: #1b1d20; --line: #2e3135;
  --text: #ecedee; --muted: #a3a7ad; --accent: #8fa2ff; --on: #10142b; --bad: #ff8f87 } }
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 20px;
  background: var(--page); color: var(--text);
  font: 15px/1.5 "IBM Plex Sans", system-ui, sans-serif }
main { max-width: 440px; width: 100%; padding: 28px; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px }
h1 { margin: 0 0 8px; font-size: 22px; line-height: 1.25 }
p { margin: 0 0 12px; color: var(--muted) } p:last-child { margin: 0 }
label { display: block; margin-bottom: 4px; font-size: 13px }
input, button { width: 100%; height: 40px; padding: 0 12px; border-radius: 8px; font: inherit }
input { margin-bottom: 12px; border: 1px solid var(--line); background: var(--page);
  color: var(--text) }
button { border: 0; background: var(--accent); color: var(--on); font-weight: 700; cursor: pointer }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
.bad { color: var(--bad) }
"""


def _document(title: str, body: str, head: str = "") -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"{head}<title>{title}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{title}</h1>{body}</main></body></html>"
    )


CLOSED_PAGE = _document(
    "Open the studio by its link",
    "<p>The studio printed a link when it started, ending in <b>?token=…</b>. "
    "Open that one: it lets this browser in, and nobody else on this computer.</p>"
    "<p>Lost it? Start the studio again.</p>",
)


def password_page(*, wrong: bool = False) -> str:
    """A form that asks for the password."""
    note = '<p class="bad" role="alert">That is not the password.</p>' if wrong else ""
    return _document(
        "LoRA studio",
        f'{note}<form method="post" action="/studio/login"><label for="password">Password</label>'
        '<input id="password" name="password" type="password" required autofocus '
        'autocomplete="current-password"><button>Open the studio</button></form>',
    )


def entering_page(query: str) -> str:
    """Goes on to the studio at once, by a step that starts on the studio's own page.

    A browser holds back a strict cookie on a redirect that another program began; it sends it
    on this one, and the token leaves the address bar with it.
    """
    target = html.escape(f"/?{query}" if query else "/", quote=True)
    return _document(
        "Opening the studio",
        f'<p>If nothing happens, <a href="{target}">go on</a>.</p>',
        head=f'<meta http-equiv="refresh" content="0; url={target}">',
    )


async def page(send: Send, status: int, text: str) -> None:
    """Send an HTML page."""
    await _send(send, status, text, b"text/html; charset=utf-8")


async def answer(send: Send, status: int, text: str) -> None:
    """Send one plain sentence."""
    await _send(send, status, text + "\n", b"text/plain; charset=utf-8")


async def _send(send: Send, status: int, text: str, kind: bytes) -> None:
    body = text.encode()
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
