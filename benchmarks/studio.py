"""How fast the studio is: its start, a long run's chart, a click, and finding a running run again.

    python -m benchmarks.studio [--events 300000] [--clicks 30] [--busy 1]

Server and browser time are told apart: what the server needs for an answer is taken from the
network timing of the request, the rest of a click is the browser's. `--busy` keeps that many
processes computing beside it, as a training that leaves a core free does; the line "idle" is
measured without them. Measurements of one machine, one run: sizes, not records.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.ui.browser import Studio, Watch, open_browser, open_page, open_studio
from tests.ui.made_runs import make_run
from trainers.events import read_events
from trainers.jobs import RunDir, record_process
from ui.follow import Follower


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The studio's times.")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--clicks", type=int, default=30)
    parser.add_argument("--busy", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before")
    with tempfile.TemporaryDirectory() as folder, open_browser() as browser:
        runs = Path(folder)
        make_run(runs, "short", steps=300, every=50)
        _reading(_long_run(runs, "long", options.events))
        began = time.perf_counter()
        with open_studio(runs) as studio:
            _row("start of the studio, to its link", time.perf_counter() - began)
            _drawing(browser, studio, options.events)
            _clicks(browser, studio, options.clicks, "idle")
            with _busy(options.busy):
                _clicks(browser, studio, options.clicks, f"{options.busy} busy")
        _adopting(browser, runs)


def _long_run(runs: Path, name: str, steps: int) -> RunDir:
    run = make_run(runs, name, steps=10, every=5)
    dice = random.Random(0)
    with run.events_file.open("w", encoding="utf-8") as file:
        started = {"total_steps": steps, "pictures": 14, "resumed_at": 0}
        file.write(json.dumps({"seq": 0, "at": 1.7e9, "kind": "started", "body": started}) + "\n")
        for step in range(1, steps + 1):
            body = {
                "step": step, "loss": 0.1 + 0.2 * math.exp(-step / 2e4) + abs(dice.gauss(0, 0.04)),
                "lr": 1e-4, "grad_norm": 0.5, "seconds": 0.3, "peak_bytes": 7_400_000_000,
            }  # fmt: skip
            line = {"seq": step, "at": 1.7e9 + 0.3 * step, "kind": "step", "body": body}
            file.write(json.dumps(line) + "\n")
        done = {"step": steps, "file": "long.safetensors", "seconds": 0.3 * steps}
        end = {"seq": steps + 1, "at": 1.8e9, "kind": "finished", "body": done}
        file.write(json.dumps(end) + "\n")
    return run


def _reading(run: RunDir) -> None:
    began = time.process_time()
    follower = Follower(run)
    follower.catch_up()
    _row("reading its events, processor time", time.process_time() - began)
    began = time.process_time()
    points = len(follower.progress.loss.curve()["steps"])
    _row(f"its curve in {points:,} points, processor time", time.process_time() - began)
    assert read_events(run.events_file, follower.offset)[0] == []


def _drawing(browser: Browser, studio: Studio, events: int) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(studio.url)
    page.wait_for_selector(".st-stage")
    began = time.perf_counter()
    page.goto(f"{studio.address}/?tab=runs&run=long")
    page.wait_for_function(
        "document.querySelector('.st-chart canvas')?.ariaLabel?.includes('over')"
    )
    _row(f"{events:,} events: first draw after navigation", time.perf_counter() - began)
    context.close()


def _clicks(browser: Browser, studio: Studio, count: int, label: str) -> None:
    """A click on another run until its title stands there."""
    context, page = open_page(browser, studio, Watch(studio.address))
    whole, server = [], []
    page.locator('.st-rail [data-run="long"]').wait_for()
    for number in range(count):
        name = ("short", "long")[number % 2]
        page.evaluate("performance.clearResourceTimings()")
        whole.append(_one_click(page, name))
        times = page.evaluate(
            """performance.getEntriesByType("resource")
              .filter((e) => e.name.includes("component_server"))
              .map((e) => e.responseStart - e.requestStart)"""
        )
        server.append(min(times, default=math.nan) / 1000)
        page.wait_for_timeout(150)
    context.close()
    for what, values in (("whole", whole), ("server", server)):
        ordered = sorted(values)
        text = f"median {1000 * statistics.median(values):.0f} ms, "
        print(f"click, {label}, {what:6} {text}p95 {1000 * ordered[int(0.95 * count)]:.0f} ms")


def _one_click(page: Page, name: str) -> float:
    return float(
        page.evaluate(
            """(name) => new Promise((done) => {
              const began = performance.now();
              const title = document.querySelector(".st-stage h1");
              const look = () => title.textContent === name
                ? done((performance.now() - began) / 1000) : requestAnimationFrame(look);
              document.querySelector(`.st-rail [data-run="${name}"]`).click();
              look();
            })""",
            name,
        )
    )


def _adopting(browser: Browser, runs: Path) -> None:
    """A new studio on a folder in which a run is working: until the page shows it as running."""
    run = make_run(runs, "working", steps=300, every=50, reached=120, outcome=None)
    record_process(run, os.getpid())
    with open_studio(runs) as studio:
        began = time.perf_counter()  # its link is printed: it is ready
        context, page = open_page(browser, studio, Watch(studio.address))
        page.wait_for_selector("h1:text-is('working')")
        _row("a running run is adopted, after the studio is ready", time.perf_counter() - began)
        context.close()


@contextmanager
def _busy(count: int) -> Iterator[None]:
    processes = [multiprocessing.Process(target=_compute, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    yield
    for process in processes:
        process.kill()


def _compute() -> None:
    while True:
        math.factorial(2_000)


def _row(what: str, seconds: float) -> None:
    print(f"{what:58} {seconds:6.2f} s", flush=True)


if __name__ == "__main__":
    main()
