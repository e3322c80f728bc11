"""Real runs behind a real studio: a failure holds up nothing, a killed studio finds its run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, expect

from tests.ui.browser import Watch, open_browser, open_page, open_studio, until
from trainers import jobs, layering
from trainers.jobs import RunDir
from trainers.queue import Queue
from ui.runs.tab import DEMO_PRESET

pytestmark = pytest.mark.browser
RUN_SECONDS = 300
_QUICK = {
    "data": {"class_pictures": 0, "cache": "memory"},
    "schedule": {"steps": 3, "batch_size": 1},
    "preview": {"enabled": False},
    "adapter": {"rank": 2},
    "model": {"threads": 1},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests here."""
    with open_browser() as opened:
        yield opened


def _prepare(runs: Path, name: str, **changes: dict[str, object]) -> RunDir:
    layers = [layering.read_preset(DEMO_PRESET), _QUICK, changes]
    run = jobs.prepare(runs, name, layering.build_spec(layers))
    Queue(runs).add(run)
    return run


def _pid(run: RunDir) -> int:
    return int(json.loads(run.process_file.read_text())["pid"])


def test_the_line_and_a_killed_studio(browser: Browser, runs: Path) -> None:
    """Three in line: the studio is killed in the first, the second fails, the third finishes."""
    first = _prepare(runs, "first", schedule={"steps": 100_000})
    second = _prepare(runs, "second", data={"folder": str(runs / "no such folder")})
    third = _prepare(runs, "third")
    with open_studio(runs) as studio:
        until(lambda: first.process_file.exists(), 60, "the first to start by itself")
        until(lambda: jobs.last_event(first) is not None, RUN_SECONDS, "a first event")
        pid = _pid(first)
        studio.process.kill()
        studio.process.wait()
    assert jobs.is_alive(first) and Queue(runs).names() == ["second", "third"]

    with open_studio(runs) as studio:
        watch = Watch(studio.address)
        context, page = open_page(browser, studio, watch)
        expect(page.get_by_role("heading", name="first")).to_be_visible(timeout=30_000)
        assert _pid(first) == pid and jobs.is_alive(first), "the same process, adopted"
        expect(page.locator(".st-ends")).to_contain_text("Step", timeout=RUN_SECONDS * 1000)
        page.get_by_role("button", name="Pause", exact=True).click()
        expect(page.locator(".st-stage .st-note")).to_contain_text("Paused at", timeout=60_000)
        page.get_by_role("button", name="Resume", exact=True).click()
        expect(page.locator(".st-stage .st-note")).to_be_hidden(timeout=60_000)
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("button", name="Stop and save").click()
        until(lambda: jobs.status(first) == "stopped", 60, "the first to stop")

        until(lambda: jobs.status(second) == "failed", RUN_SECONDS, "the second to fail")
        page.locator('.st-rail [data-run="second"]').click()
        expect(page.locator(".st-stage .st-note.st-bad")).to_contain_text("no such folder")
        until(lambda: jobs.status(third) == "finished", RUN_SECONDS, "the third to finish")
        page.locator('.st-rail [data-run="third"]').click()
        expect(page.locator(".st-note.st-good")).to_contain_text("Finished", timeout=30_000)
        context.close()
        watch.check()
