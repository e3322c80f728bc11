"""Tools and Settings in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, expect

from lora_diffusion.formats import save_adapter
from lora_diffusion.formats.header import read_header
from lora_diffusion.injection import AdapterConfig
from lora_diffusion.probe import probe
from tests.ui.browser import Watch, open_browser, open_page, open_studio, sound

pytestmark = pytest.mark.browser
SLOW_MS = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests here."""
    with open_browser() as opened:
        yield opened


def test_a_file_from_drop_to_download(browser: Browser, runs: Path, tmp_path: Path) -> None:
    small = AdapterConfig(targets="*.attn1.to_q", text_targets="none", rank=4)
    save_adapter(probe("sd15", small), tmp_path / "cat.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"PK\x03\x04 a zip <b>")
    with open_studio(runs) as studio:
        watch = Watch(studio.address)
        context, page = open_page(browser, studio, watch)
        page.get_by_role("tab", name="Tools").click()
        sound(page, tmp_path / "empty.png")
        chosen = page.get_by_label("Adapter file")
        chosen.set_input_files(tmp_path / "broken.safetensors")
        alert = page.locator(".st-tools-tab [role=alert]")
        expect(alert).to_contain_text("zip archive", timeout=SLOW_MS)
        sound(page, tmp_path / "error.png")
        chosen.set_input_files(tmp_path / "cat.safetensors")
        expect(page.locator(".st-t-facts")).to_contain_text("lora (kohya)", timeout=SLOW_MS)
        expect(alert).to_have_count(0)
        page.get_by_role("button", name="Verify").click()
        expect(page.locator(".st-t-table")).to_contain_text("ComfyUI", timeout=SLOW_MS)
        expect(page.locator(".st-t-table")).to_contain_text("it cannot tell the base")
        expect(page.locator(".st-t-table")).not_to_contain_text("object")
        sound(page, tmp_path / "verify.png")
        page.get_by_role("button", name="Edit metadata").click()
        page.get_by_label("Text of modelspec.title").fill("<i>Fox</i>")
        page.get_by_role("button", name="Write a copy").click()
        link = page.get_by_role("link", name="Download")
        expect(link).to_be_visible(timeout=SLOW_MS)
        with page.expect_download() as caught:
            link.click()
        caught.value.save_as(tmp_path / "edited.safetensors")
        assert caught.value.suggested_filename == "cat-edited.safetensors"
        assert (
            read_header(tmp_path / "edited.safetensors").metadata["modelspec.title"] == "<i>Fox</i>"
        )
        page.get_by_role("button", name="Add to library").click()
        expect(page.get_by_role("button", name="In the library")).to_be_disabled()
        page.get_by_role("tab", name="Settings").click()
        expect(page.get_by_role("heading", name=re.compile("leave this computer"))).to_be_visible()
        expect(page.locator(".st-settings")).to_contain_text(str(runs))
        page.get_by_role("button", name="Dark", exact=True).click()
        assert page.evaluate("document.body.classList.contains('dark')")
        page.get_by_role("button", name="As the system").click()
        assert not page.evaluate("document.body.classList.contains('dark')")
        sound(page, tmp_path / "settings.png")
        context.close()
        watch.check()
