"""Uploads: within limits, by opaque id, and never half a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_diffusion.errors import InputError
from tests.ui.asgi import HOST, send
from ui.context import Context
from ui.gate import uploads
from ui.gate.security import Access, Gate
from ui.gate.uploads import Limits, Uploads
from ui.server import make_app

ACCESS = Access("127.0.0.1", 7860)
OURS = [("host", HOST), ("cookie", f"{ACCESS.cookie_name}={ACCESS.session}")]
SMALL = Limits(file_bytes=100, total_bytes=150, free_bytes=0, files=3, at_once=2, stall_seconds=1)


@pytest.fixture
def store() -> Iterator[Uploads]:
    """An upload store with small limits."""
    opened = Uploads(SMALL)
    yield opened
    opened.close()


async def _parts(*parts: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(pause)


def _take(store: Uploads, *parts: bytes, name: str = "a.zip") -> str:
    return asyncio.run(store.take(name, _parts(*parts)))


def _files(store: Uploads) -> list[Path]:
    return list(store._scratch().iterdir())


def test_a_file_comes_back_by_its_id_only(store: Uploads) -> None:
    picked = _take(store, b"ab", b"c", name="../../etc/passwd\x1b[31m")
    found = store.find(picked)
    assert found.path.read_bytes() == b"abc" and found.size == 3
    assert found.path.parent == store._scratch() and "\x1b" not in found.name
    for other in ("", picked[:-1], "../" + picked, None, 3, [picked]):
        with pytest.raises(InputError, match="gone"):
            store.find(other)
    store.drop(picked)
    assert not _files(store)


@pytest.mark.parametrize(
    ("size", "limits", "told"),
    [
        (101, {}, "larger"),
        (60, {"total_bytes": 50}, "together"),
        (10, {"free_bytes": 1 << 62}, "free"),
    ],
)
def test_beyond_a_limit_nothing_is_left(
    store: Uploads, size: int, limits: dict[str, int], told: str
) -> None:
    store.limits = replace(SMALL, **limits)
    with pytest.raises(InputError, match=told):
        _take(store, *[b"x"] * size)
    assert not _files(store)
    store.limits = SMALL
    _take(store, b"x" * 100)  # what was refused does not count


def test_what_is_dropped_no_longer_counts(store: Uploads) -> None:
    store.drop(_take(store, b"x" * 90))
    _take(store, b"x" * 90)
    with pytest.raises(InputError, match="together"):
        _take(store, b"x" * 90)


def test_no_more_than_a_few_at_once_and_a_stall_ends(store: Uploads) -> None:
    store.limits = replace(SMALL, stall_seconds=0.1)

    async def race() -> list[object]:
        takes = [store.take(f"{n}", _parts(b"x", pause=0.5)) for n in range(100)]
        return await asyncio.gather(*takes, return_exceptions=True)

    told = [str(result) for result in asyncio.run(race())]
    assert sum("stalled" in text for text in told) == SMALL.at_once
    assert sum("on their way" in text for text in told) == 100 - SMALL.at_once
    assert not _files(store)


def test_a_disk_that_refuses_leaves_nothing(
    store: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 40))

    async def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uploads.asyncio, "to_thread", refuse)
    with pytest.raises(OSError, match="No space"):
        _take(store, b"x")
    assert not _files(store)


def test_through_the_gate(context: Context) -> None:
    context.uploads.limits = replace(SMALL, file_bytes=3 << 20, total_bytes=4 << 20)
    gate = Gate(make_app(context), ACCESS)
    body = b"\x00\xffx" * 500_000  # above what any other route takes
    answer = send(gate, "POST", "/studio/upload?name=a%2Fb.zip", OURS, body)
    assert answer.status == 200
    found = context.uploads.find(json.loads(answer.body)["id"])
    assert found.path.read_bytes() == body and found.name == "a/b.zip"
    refused = send(gate, "POST", "/studio/upload?name=b", OURS, b"x" * (3 << 20))
    assert refused.status == 413 and "together" in json.loads(refused.body)["error"]
    for headers in ([*OURS, ("origin", "http://evil.com")], [("host", HOST)]):
        assert send(gate, "POST", "/studio/upload?name=c", headers, b"x").status == 403
    assert len(list(context.uploads._scratch().iterdir())) == 1
