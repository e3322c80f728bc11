"""Pictures of every tab and state of the studio, light and dark, wide and narrow, to be looked at.

    python -m benchmarks.screenshots OUT [--tabs train runs] [--widths 820] [--themes dark]
    python -m benchmarks.screenshots docs/pictures --runs runs --widths 1280 --themes light

The runs are made up (`tests.ui.made_runs`), so it takes seconds and needs no training; with --runs
it is those, and one picture a tab, as the documentation shows them. Chromium must be installed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page

from lora_diffusion.formats import save_adapter
from lora_diffusion.injection import AdapterConfig
from lora_diffusion.probe import probe
from tests.ui.browser import Watch, open_browser, open_page, open_studio
from tests.ui.made_runs import every_state, make_waiting

_TABS = ("dataset", "train", "runs", "compose", "tools", "settings")
_STATES = ("finished", "failed", "stopped", "interrupted", "paused", "running", "waiting")


def main() -> None:
    """Write `TAB-STATE-WIDTH-THEME.png` for each."""
    parser = argparse.ArgumentParser(description="Screenshots of the studio.")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("--tabs", nargs="+", choices=_TABS, default=_TABS)
    parser.add_argument("--widths", nargs="+", type=int, default=(1280, 820))
    parser.add_argument("--themes", nargs="+", choices=("light", "dark"), default=("light", "dark"))
    parser.add_argument("--runs", type=Path, help="runs to show: one picture of each tab")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, open_browser() as browser:
        if options.runs:
            _of_real_runs(browser, options)
            return
        empty, full = Path(folder) / "empty", Path(folder) / "full"
        empty.mkdir()
        full.mkdir()
        every_state(full, steps=1_500, every=125)
        make_waiting(full, "waiting", "waiting too")
        for runs in (empty, full):
            with open_studio(runs) as studio:
                for width in options.widths:
                    for theme in options.themes:
                        watch = Watch(studio.address)
                        context, page = open_page(browser, studio, watch, width=width, theme=theme)
                        for tab in options.tabs:
                            for state in _show(page, tab, empty=runs == empty):
                                name = f"{tab}-{state}-{width}-{theme}.png"
                                whole = not page.locator("dialog[open]").count()
                                page.screenshot(path=options.out / name, full_page=whole)
                                print(options.out / name, flush=True)
                        context.close()
                        for problem in watch.problems:
                            print(problem)


def _of_real_runs(browser: Browser, options: argparse.Namespace) -> None:
    with open_studio(options.runs) as studio:
        for width in options.widths:
            for theme in options.themes:
                context, page = open_page(
                    browser, studio, Watch(studio.address), width=width, theme=theme
                )
                for tab in options.tabs:
                    page.get_by_role("tab", name=tab.capitalize(), exact=True).click()
                    page.wait_for_timeout(2_500)
                    if tab == "compose":
                        _draw_both(page)
                    page.mouse.move(0, 0)
                    name = f"studio-{tab}" + ("" if theme == "light" else f"-{theme}")
                    page.screenshot(path=options.out / f"{name}.png", full_page=True)
                context.close()


def _show(page: Page, tab: str, *, empty: bool) -> Iterator[str]:
    """Bring each state of a tab onto the page."""
    page.get_by_role("tab", name=tab.capitalize(), exact=True).click()
    page.wait_for_timeout(700)
    if tab == "runs" and not empty:
        yield from _runs(page)
    elif tab == "train" and not empty:
        yield from _train(page)
    elif tab == "dataset" and not empty:
        yield from _dataset(page)
    elif tab == "tools" and not empty:
        yield from _tools(page)
    elif tab == "compose" and not empty:
        yield from _compose(page)
    elif empty or tab == "settings":
        page.get_by_text("Looking at this machine").wait_for(state="hidden", timeout=60_000)
        yield "empty" if empty else "ready"


def _runs(page: Page) -> Iterator[str]:
    for state in _STATES:
        _open_run(page, state)
        yield state
    _open_run(page, "finished")
    box = page.locator(".st-chart canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    page.wait_for_timeout(300)
    yield "hover"
    _tick_two(page)
    page.get_by_role("button", name="Compare 2 runs").click()
    page.wait_for_timeout(400)
    yield "compared"
    _tick_two(page)


def _open_run(page: Page, name: str) -> None:
    page.locator(f'.st-card-button[data-run="{name}"]').click()
    page.locator(f'.st-card-button[data-run="{name}"][aria-current="true"]').wait_for()
    page.get_by_role("heading", name=name, exact=True).wait_for()
    if name != "waiting":
        page.locator(".st-chart canvas").wait_for()
    page.wait_for_timeout(500)


def _tick_two(page: Page) -> None:
    """Tick two runs, or take the ticks away. They show under the pointer, so a script clicks."""
    for name in ("finished", "stopped"):
        page.locator(f'[data-tick="{name}"]').evaluate("tick => tick.click()")


def _compose(page: Page) -> Iterator[str]:
    demo = page.get_by_role("button", name="Get the demo adapters")
    if demo.is_visible():
        demo.click()
    page.locator(".st-adapter", has_text="Demo style").wait_for()
    page.get_by_label("Draw as I change weights").uncheck()
    yield "ready"
    for name in ("Demo character", "Demo style"):
        page.locator(".st-adapter", has_text=name).click()
    page.get_by_label("Steps", exact=True).evaluate("input => { input.value = '12' }")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.wait_for_timeout(1_200)
    yield "busy"
    page.locator(".st-frame img").wait_for(timeout=120_000)
    page.get_by_role("button", name="Compare with base").click()
    page.get_by_role("button", name="Do they get").click()
    page.locator(".st-heat").wait_for(timeout=120_000)
    yield "compared"
    page.get_by_role("button", name="Fold into one file").click()
    page.get_by_role("button", name="Fold", exact=True).click()
    page.locator(".st-readers .st-yes").first.wait_for(timeout=120_000)
    yield "finished"
    page.keyboard.press("Escape")
    page.get_by_label("Seed").fill("much")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator(".st-compose .st-bad").first.wait_for()
    yield "error"


def _draw_both(page: Page) -> None:
    """The demo's character in the demo's style, on the page."""
    page.get_by_label("Draw as I change weights").uncheck()
    for name in ("demo-character", "demo-style"):
        page.locator(".st-adapter", has_text=name).click()
    page.get_by_label("Prompt", exact=True).fill("zwx style, a sks creature on a yellow background")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.locator(".st-frame img").wait_for(timeout=120_000)
    page.wait_for_timeout(500)


def _train(page: Page) -> Iterator[str]:
    yield "ready"
    page.locator("#st-optim-lr_unet").fill("fast")
    page.wait_for_timeout(700)
    yield "wrong"
    page.locator("#st-optim-lr_unet").fill("0.001")
    page.get_by_role("button", name="Everything").click()
    page.wait_for_timeout(700)
    yield "everything"
    page.get_by_role("button", name="Simple").click()


def _dataset(page: Page) -> Iterator[str]:
    page.get_by_label("Folder on this computer").fill("/no/such/folder")
    page.get_by_role("button", name="Open folder").click()
    page.get_by_role("alert").wait_for()
    yield "error"
    page.get_by_role("button", name="Use the demo pictures").click()
    page.locator(".st-gallery-card[data-id]").first.wait_for()
    page.wait_for_timeout(1_500)
    yield "open"
    page.get_by_role("button", name="Find and replace").click()
    page.get_by_label("Find", exact=True).fill("background")
    page.get_by_label("Replace with").fill("wall")
    page.wait_for_timeout(900)
    yield "replace"
    page.get_by_role("button", name="Sizes").click()
    page.wait_for_timeout(500)
    yield "sizes"
    page.get_by_role("button", name="Sizes").click()
    for name in ("Crop", "Paint mask"):
        page.get_by_role("button", name=name, exact=True).click()
        page.wait_for_timeout(300)
        yield name.partition(" ")[0].lower()
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Caption all").click()
    page.get_by_label("Which pictures").select_option("all", timeout=60_000)
    yield "caption"
    page.get_by_label("Trigger word").fill("sks")
    page.locator(".st-caption-sheet").get_by_role("button", name="Caption", exact=True).click()
    page.wait_for_timeout(400)
    yield "busy"
    page.locator(".st-note.st-good").wait_for(timeout=60_000)
    page.wait_for_timeout(500)
    yield "finished"
    page.get_by_role("button", name="Discard all").click()


def _tools(page: Page) -> Iterator[str]:
    path = page.get_by_label("File on this computer")
    opened = page.get_by_role("button", name="Open file")
    path.fill("/no/such.safetensors")
    opened.click()
    page.locator(".st-tools-tab [role=alert]").wait_for()
    yield "error"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mossy fox.safetensors"
        small = AdapterConfig(targets="*.attn1.to_q", text_targets="none", rank=8)
        save_adapter(probe("sd15", small), file)
        path.fill(str(file))
        opened.click()
        page.locator(".st-t-facts").wait_for(timeout=60_000)
        yield "open"
        page.get_by_role("button", name="Clean before sharing").click()
        page.get_by_role("button", name="Write a clean copy").click()
        page.get_by_role("link", name="Download").wait_for(timeout=60_000)
        yield "finished"


if __name__ == "__main__":
    main()
