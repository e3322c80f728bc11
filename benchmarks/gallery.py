"""The Dataset tab with many pictures, in a real Chromium: how soon it is there, how a jump feels,
and what the browser's memory does.

    python -m benchmarks.gallery --pictures 10000 --jumps 85

Pictures are made in a temporary folder unless `--folder` gives one. `open` is from the click on
**Open folder** to the moment when every card in sight shows its picture; `again` the same once
more, with thumbnails on the disk. `jump` is from setting the scroll bar to all cards in sight being
filled. Processor seconds tell
what the opening would take on an idle machine. Heap and nodes are the browser's own figures after
a collection, before and after the
jumps.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from playwright.sync_api import CDPSession, Page

from tests.ui.browser import Studio, Watch, open_browser, open_page, open_studio

_SIDE = 256
_WORDS = ("red", "blue", "green", "forest", "sea", "cat", "dog", "castle", "night", "snow")
_SHOWN = """() => {
  const gallery = document.querySelector(".st-gallery");
  if (!gallery) return false;
  const box = gallery.getBoundingClientRect();
  const seen = [...document.querySelectorAll(".st-gallery-card")].filter((card) => {
    const at = card.getBoundingClientRect();
    return at.bottom > box.top + 4 && at.top < box.bottom - 4;
  });
  return seen.length > 5 && seen.every((card) => card.dataset.id && !card.disabled
    && card.querySelector("img").complete && card.querySelector("img").naturalWidth);
}"""


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--jumps", type=int, default=85)
    parser.add_argument("--folder", type=Path, help="pictures that are there already")
    options = parser.parse_args()
    with _pictures(options.folder, options.pictures) as folder:
        print(json.dumps(_measure(folder, options.jumps), indent=2))


def _measure(folder: Path, jumps: int) -> dict[str, object]:
    with (
        tempfile.TemporaryDirectory() as place,
        open_studio(Path(place) / "runs") as studio,
        open_browser() as browser,
    ):
        watch = Watch(studio.address)
        seconds: list[float] = []
        cpu: list[list[float]] = []
        for _ in range(2):
            context, page = open_page(browser, studio, watch)
            page.get_by_role("tab", name="Dataset").click()
            page.get_by_label("Folder on this computer").fill(str(folder))
            began, before_cpu = time.perf_counter(), _cpu(studio)
            page.get_by_role("button", name="Open folder").click()
            page.wait_for_function(_SHOWN, polling=20)
            seconds.append(time.perf_counter() - began)
            cpu.append([round(b - a, 2) for a, b in zip(before_cpu, _cpu(studio), strict=True)])
            page.wait_for_function("!document.querySelector('.st-data .st-busy:not([hidden])')",
                                   timeout=600_000)  # fmt: skip
            if len(seconds) == 1:
                context.close()
        probe = context.new_cdp_session(page)
        before = _memory(probe)
        times = [_jump(page, share) for share in _places(jumps)]
        after = _memory(probe)
        watch.check()
        return {
            "pictures": page.locator(".st-sub").first.inner_text(),
            "open_seconds": round(seconds[0], 2),
            "again_seconds": round(seconds[1], 2),
            "cpu_seconds_server_and_browser": cpu,
            "jump_ms": {
                "median": round(statistics.median(times)),
                "p95": round(sorted(times)[int(0.95 * len(times))]),
            },
            "heap_mb": [round(each["JSHeapUsedSize"] / 1e6, 2) for each in (before, after)],
            "nodes": [round(each["Nodes"]) for each in (before, after)],
        }


def _cpu(studio: Studio) -> tuple[float, float]:
    """Processor seconds of the studio, and of the browser, so far."""
    browser = [p for p in psutil.Process().children(recursive=True) if "chrom" in p.name()]
    return _seconds([psutil.Process(studio.process.pid)]), _seconds(browser)


def _seconds(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _jump(page: Page, share: float) -> float:
    """Milliseconds from the jump to all cards in sight being filled."""
    began = time.perf_counter()
    page.evaluate(
        "(share) => { const e = document.querySelector('.st-gallery');"
        " e.scrollTop = share * (e.scrollHeight - e.clientHeight); }",
        share,
    )
    page.wait_for_timeout(20)
    page.wait_for_function(_SHOWN, polling=20)
    return (time.perf_counter() - began) * 1000


def _places(jumps: int) -> list[float]:
    source = random.Random(0)
    return [source.random() for _ in range(jumps)]


def _memory(probe: CDPSession) -> dict[str, float]:
    probe.send("HeapProfiler.collectGarbage")
    probe.send("Performance.enable")
    metrics = probe.send("Performance.getMetrics")["metrics"]
    return {each["name"]: each["value"] for each in metrics}


@contextmanager
def _pictures(folder: Path | None, number: int) -> Iterator[Path]:
    if folder is not None:
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory() as place:
        for index in range(number):
            source = np.random.default_rng(index)
            low = source.integers(0, 255, (5, 5, 3)).astype(np.uint8)
            picture = Image.fromarray(low).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
            picture.save(Path(place) / f"{index:05d}.jpg", quality=80)
            caption = ", ".join(source.choice(_WORDS, 4, replace=False))
            (Path(place) / f"{index:05d}.txt").write_text(caption + "\n")
        yield Path(place)


if __name__ == "__main__":
    main()
