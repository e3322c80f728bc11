"""A real Chromium on a real studio, watched for anything that should not happen."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

_ROOT = Path(__file__).resolve().parents[2]
_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP evil.test 127.0.0.1",
]
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
START_SECONDS = 90


def chromium() -> str:
    """The browser's path; without one the test is skipped, and in CI it fails."""
    for name in _NAMES:
        found = shutil.which(name)
        if found:
            return found
    text = "No Chromium found: the studio was NOT tested in a browser. Install chromium."
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


@dataclass
class Studio:
    """A studio process and its link."""

    process: subprocess.Popen[str]
    url: str

    @property
    def address(self) -> str:
        """Scheme, host and port."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


@contextmanager
def open_studio(runs: Path, *options: str) -> Iterator[Studio]:
    """`python app.py` as a user starts it, on a free port."""
    process = subprocess.Popen(
        [sys.executable, "app.py", "--no-browser", "--runs", str(runs), *options],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, f"the studio printed no link: {line!r}"
        yield Studio(process, found[0])
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


@dataclass
class Watch:
    """What must stay empty, and what the test says is allowed."""

    address: str
    problems: list[str] = field(default_factory=list)

    def on(self, page: Page) -> None:
        """Note console errors, page errors, dialogs, and requests to any other host."""
        page.on("console", lambda m: self._note(m.type == "error", f"console: {m.text}"))
        page.on("pageerror", lambda error: self._note(True, f"page error: {error}"))
        page.on("dialog", lambda d: self._note(True, f"dialog: {d.message}"))
        page.on("request", lambda r: self._note(self._foreign(r.url), f"request to {r.url}"))

    def check(self) -> None:
        """Fail on anything noted."""
        assert not self.problems, "\n".join(self.problems)

    def _note(self, wrong: bool, text: str) -> None:
        if wrong:
            self.problems.append(text)

    def _foreign(self, url: str) -> bool:
        return not url.startswith((f"{self.address}/", "data:", "blob:"))


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium with a fresh profile."""
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGS)
        yield browser
        browser.close()


def open_page(
    browser: Browser, studio: Studio, watch: Watch, *, width: int = 1280, theme: str = "light"
) -> tuple[BrowserContext, Page]:
    """A fresh context on the studio's printed link."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if theme == "dark" else "light",
        accept_downloads=True,
    )
    page = context.new_page()
    watch.on(page)
    page.goto(studio.url)
    page.wait_for_selector(".st-stage, .st-empty", timeout=START_SECONDS * 1000)
    return context, page


def sound(page: Page, shot: Path) -> None:
    """Nothing sticks out, every control has a name, every picture a description; takes `shot`."""
    page.screenshot(path=shot, full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, shot.name
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, a, input, select, textarea, summary")]
          .filter((e) => e.offsetParent && !(e.ariaLabel || e.title || e.textContent.trim()
            || e.labels?.length || e.getAttribute("aria-labelledby") || e.closest("label")))
          .map((e) => e.outerHTML.slice(0, 160))"""
    )
    assert not nameless
    assert not page.evaluate(
        "[...document.querySelectorAll('img')].filter((i) => !i.hasAttribute('alt')).length"
    )


def fits(page: Page) -> None:
    """Nothing reaches beyond the page's sides, unless one can scroll there."""
    out = page.evaluate(
        """() => {
          const scrolls = (e) => e && e !== document.body && (
            /auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
          const parts = document.querySelectorAll("#st-top *, .st *, #st-tabs [role=tab]");
          return [...parts].filter((e) => {
            const box = e.getBoundingClientRect();
            const isOut = box.right > innerWidth + 1 || box.left < -1;
            return e.offsetParent && box.width && isOut && !scrolls(e.parentElement);
          }).map((e) => e.outerHTML.slice(0, 120));
        }"""
    )
    assert not out, out


def until(check: object, seconds: float, what: str) -> None:
    """Wait until `check()` is true."""
    assert callable(check)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return
        time.sleep(0.25)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")
