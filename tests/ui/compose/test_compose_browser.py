"""Composing in a real browser: choose, weigh, compare, place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, Page, expect

from lora_diffusion.consumers import verify
from lora_diffusion.families import load_base
from lora_diffusion.formats import save_adapter
from lora_diffusion.injection import AdapterConfig, inject
from lora_diffusion.probe import probe
from tests.conftest import fill
from tests.ui.browser import Watch, open_browser, open_page, open_studio

pytestmark = pytest.mark.browser
DRAWN_MS = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests here."""
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters for the demo base, one for SDXL, and a broken file."""
    folder = tmp_path_factory.mktemp("library")
    base = load_base("bundled:demo_base")
    for number, name in enumerate(("ink", "fox")):
        handle = inject(base.parts, AdapterConfig(rank=2 + number, seed=number))
        fill(handle, spread=0.1 + 0.1 * number)
        handle.save(folder / f"{name}.safetensors")
        handle.remove()
    large = probe("sdxl", AdapterConfig(targets="*.attn1.to_q", text_targets="none", rank=1))
    save_adapter(large, folder / "large.safetensors")
    (folder / "torn.safetensors").write_bytes(b"nothing of use")
    return folder


def _source(page: Page) -> str:
    return page.locator(".st-frame img[data-before]").get_attribute("src") or ""


def _fold_and_export(page: Page, library: Path, folder: Path) -> None:
    page.get_by_role("button", name="Fold into one file").click()
    page.get_by_label("Name", exact=True).fill("fox in ink")
    page.get_by_role("button", name="Fold", exact=True).click()
    expect(page.locator(".st-report")).to_contain_text("is ready", timeout=DRAWN_MS)
    expect(page.locator(".st-report")).to_contain_text("Largest error of a layer")
    expect(page.locator(".st-readers li", has_text="sd-scripts")).to_contain_text(
        "reads it", timeout=DRAWN_MS
    )
    with page.expect_download() as caught:
        page.get_by_role("link", name="Export").click()
    target = folder / caught.value.suggested_filename
    caught.value.save_as(target)
    assert target.name == "fox in ink.safetensors"
    assert "sd-scripts" in verify(target).readers
    page.get_by_role("button", name="Add to library").click()
    expect(page.locator(".st-report")).to_contain_text("In the library as fox in ink.safetensors")
    assert (library / "fox in ink.safetensors").read_bytes() == target.read_bytes()
    page.keyboard.press("Escape")
    expect(page.locator(".st-adapter", has_text="fox in ink")).to_be_visible(timeout=20_000)


def test_choose_weigh_compare_and_come_back(
    browser: Browser, runs: Path, library: Path, tmp_path: Path
) -> None:
    with open_studio(runs, "--adapters", str(library)) as studio:
        watch = Watch(studio.address)
        context, page = open_page(browser, studio, watch)
        page.get_by_role("tab", name="Compose").click()
        expect(page.locator(".st-adapter")).to_have_count(4)
        for name, reason in (("large", "Made for SDXL; this base is SD 1.x."), ("torn", "torn")):
            card = page.locator(".st-adapter", has_text=name)
            expect(card).to_be_disabled()
            expect(card).to_contain_text(reason)

        page.get_by_label("Steps").evaluate("input => { input.value = '2' }")
        page.get_by_label("Prompt", exact=True).fill("a red circle")
        page.locator(".st-adapter", has_text="ink").click()
        expect(page.locator(".st-frame img[data-before]")).to_be_visible(timeout=DRAWN_MS)
        alone = _source(page)
        page.locator(".st-adapter", has_text="fox").first.click()
        expect(page.locator(".st-mix")).to_have_count(2)
        expect(page.locator(".st-frame img[data-before]")).not_to_have_attribute(
            "src", alone, timeout=DRAWN_MS
        )

        before = _source(page)
        page.get_by_label("Weight, exact").first.fill("-0.5")
        expect(page.locator(".st-frame img[data-before]")).not_to_have_attribute(
            "src", before, timeout=DRAWN_MS
        )
        page.get_by_label("Weight, exact").first.fill("1")
        expect(page.locator(".st-frame img[data-before]")).to_have_attribute(
            "src", before, timeout=DRAWN_MS
        )

        page.get_by_role("button", name="Compare with base").click()
        wipe = page.get_by_label("How much of the base alone to show")
        wipe.focus()
        wipe.press("End")
        clip = page.locator(".st-frame img[data-before]").evaluate("i => i.style.clipPath")
        assert "100%" in clip

        page.get_by_role("button", name="Do they get in each other's way?").click()
        expect(page.locator(".st-heat li").first).to_be_visible(timeout=DRAWN_MS)
        _fold_and_export(page, library, tmp_path)

        page.get_by_label("Where in the picture it acts").first.select_option("left")
        page.get_by_label("Prompt where ink acts").fill("a blue star")
        page.get_by_label("Prompt where ink acts").press("Tab")
        expect(page.locator(".st-frame img[data-before]")).not_to_have_attribute(
            "src", before, timeout=DRAWN_MS
        )

        page.reload()
        page.get_by_role("tab", name="Compose").click()
        expect(page.locator(".st-mix")).to_have_count(2)
        expect(page.get_by_label("Prompt where ink acts")).to_have_value("a blue star")
        expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red circle")
        page.get_by_label("Seed").fill("much")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("Seed: type a whole number")
        context.close()
        watch.check()
