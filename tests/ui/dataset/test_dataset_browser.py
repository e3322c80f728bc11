"""A dataset prepared in a real browser: looked at, mended, captioned, cropped, masked, undone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.trainers.data.zips import make_zip
from tests.ui.browser import Studio, Watch, open_browser, open_page, open_studio, sound, until
from tests.ui.dataset.conftest import draw

pytestmark = pytest.mark.browser
SLOW_MS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests here."""
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """One studio for all tests here; each opens a folder of its own."""
    runs = tmp_path_factory.mktemp("studio") / "runs"
    with open_studio(runs) as opened:
        yield opened


@pytest.fixture
def visit(browser: Browser, studio: Studio) -> Iterator[Visit]:
    """Pages on the Dataset tab; at the end nothing unforeseen may have happened on them."""
    opened = Visit(browser, studio)
    yield opened
    opened.close()


class Visit:
    """Opens pages and watches them."""

    def __init__(self, browser: Browser, studio: Studio) -> None:
        self._browser, self._studio = browser, studio
        self._watch = Watch(studio.address)
        self._contexts: list[BrowserContext] = []

    def page(self, folder: Path | None = None, *, width: int = 1280, theme: str = "light") -> Page:
        """The Dataset tab, with a folder opened."""
        context, page = open_page(
            self._browser, self._studio, self._watch, width=width, theme=theme
        )
        self._contexts.append(context)
        page.get_by_role("tab", name="Dataset").click()
        if folder is not None:
            page.get_by_label("Folder on this computer").fill(str(folder))
            page.get_by_role("button", name="Open folder").click()
            expect(page.locator(".st-gallery-card[data-id]").first).to_be_visible(timeout=SLOW_MS)
            expect(page.locator("#st-caption")).to_be_visible()
        return page

    def close(self) -> None:
        """Leave, and fail on anything noted."""
        for context in self._contexts:
            context.close()
        self._watch.check()


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()}


def _card(page: Page, name: str) -> None:
    page.locator(f'.st-gallery-card[aria-label^="{name}"]').click()
    expect(page.locator(".st-side-head h2")).to_have_text(name)


def test_one_caption_by_keys_saved_and_undone(visit: Visit, pictures: Path) -> None:
    before = _contents(pictures)
    page = visit.page(pictures)
    expect(page.locator(".st-side-head h2")).to_have_text("0.png")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".st-side-head h2")).to_have_text("1.png")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".st-side-head h2")).to_have_text("0.png")
    page.keyboard.press("e")
    text = page.locator("#st-caption")
    expect(text).to_be_focused()
    text.fill("a new caption, x " + "very " * 90)
    expect(page.locator(".st-tokens")).to_contain_text(re.compile("of 75 tokens|can't be counted"))
    page.keyboard.press("Control+s")
    until(lambda: (pictures / "0.txt").read_text().startswith("a new caption"), 10, "the file")
    page.keyboard.press("Escape")
    expect(text).not_to_be_focused()
    assert page.locator(".st-side-head h2").inner_text() == "0.png"
    page.get_by_role("button", name="Undo: Caption of 0.png").click()
    expect(text).to_have_value("a cat, red, number 0")
    assert _contents(pictures) == before
    text.fill("typed and left")  # what was typed is kept when another picture is chosen
    _card(page, "2.png")
    until(lambda: (pictures / "0.txt").read_text() == "typed and left\n", 10, "the file")
    page.get_by_role("button", name="Undo: Caption of 0.png").click()
    until(lambda: _contents(pictures) == before, 10, "the undo")


def test_captions_in_bulk_by_pattern_and_back(visit: Visit, pictures: Path) -> None:
    before = _contents(pictures)
    page = visit.page(pictures)
    page.get_by_role("button", name="Find and replace").click()
    page.get_by_label("Find", exact=True).fill(r"number ([0-2])")
    page.get_by_label("Replace with").fill(r"the \1th")
    page.get_by_label("Pattern").check()
    apply = page.get_by_role("button", name=re.compile(r"^Apply to"))
    expect(apply).to_have_text("Apply to 4 captions")
    expect(page.locator(".st-changes li")).to_have_count(4)
    expect(page.locator(".st-changes ins").first).to_have_text("the 0th")
    apply.click()
    expect(page.locator(".st-note.st-good")).to_contain_text("Changed 4 captions")
    changed = [name for name, content in _contents(pictures).items() if before[name] != content]
    assert len(changed) == 4 and (pictures / "1.txt").read_text() == "a cat, red, the 1th\n"
    page.locator(".st-note").get_by_role("button", name="Undo").click()
    until(lambda: _contents(pictures) == before, 10, "the undo")
    page.get_by_label("Find", exact=True).fill("(")
    expect(page.locator(".st-d-sheet .st-bad")).to_contain_text("no pattern")


def test_findings_filters_and_taking_out(visit: Visit, pictures: Path) -> None:
    before = _contents(pictures)
    page = visit.page(pictures)
    cards = page.locator(".st-gallery-card[data-id]")
    expect(cards).to_have_count(6)
    page.get_by_role("button", name="Only problems").click()
    expect(cards).to_have_count(2)
    page.get_by_role("button", name="Only problems").click()
    page.keyboard.press("/")
    page.keyboard.type("number 3")
    expect(cards).to_have_count(1)
    page.get_by_label("Search names and captions").fill("")
    expect(cards).to_have_count(6)
    page.locator(".st-d-tag", has_text="number 0").click()
    expect(cards).to_have_count(2)
    page.get_by_role("button", name="Remove the filter tag: number 0").click()
    page.get_by_role("button", name=re.compile("^Fix 1 duplicate")).click()
    expect(page.locator(".st-note.st-good")).to_contain_text("Took out the second copies")
    expect(cards).to_have_count(5)
    _card(page, "tiny.png")
    page.keyboard.press("x")
    expect(cards).to_have_count(4)
    assert sorted(p.name for p in (pictures / ".excluded").iterdir()) == [
        "copy.png", "copy.txt", "tiny.png"
    ]  # fmt: skip
    page.get_by_role("button", name="Put back 2").click()
    expect(cards).to_have_count(6)
    assert _contents(pictures) == before


def test_crop_turn_and_mask_by_hand(visit: Visit, pictures: Path) -> None:
    before = _contents(pictures)
    page = visit.page(pictures)
    page.get_by_role("button", name="Crop", exact=True).click()
    box = page.locator(".st-crop").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.5, steps=4)
    page.mouse.up()
    apply = page.get_by_role("button", name=re.compile(r"^Crop to"))
    expect(apply).to_have_text(re.compile(r"Crop to (299|300|301) × (149|150|151) px"))
    apply.click()
    until(lambda: abs(Image.open(pictures / "0.png").width - 300) < 2, 10, "the crop")
    page.get_by_role("button", name="Turn left").click()
    until(lambda: Image.open(pictures / "0.png").height > 200, 10, "the turn")
    _card(page, "1.png")
    page.get_by_role("button", name="Paint mask").click()
    canvas = page.locator("canvas.st-painting").bounding_box()
    assert canvas is not None
    page.mouse.move(canvas["x"] + 20, canvas["y"] + 20)
    page.mouse.down()
    page.mouse.move(canvas["x"] + canvas["width"] - 20, canvas["y"] + 20, steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Save mask").click()
    until(lambda: (pictures / "1.mask.png").is_file(), 10, "the mask")
    mask = Image.open(pictures / "1.mask.png")
    assert mask.mode == "L" and max(mask.size) <= 1024
    assert mask.getpixel((mask.width // 2, round(20 / canvas["height"] * mask.height))) == 255
    assert mask.getpixel((mask.width // 2, mask.height - 5)) == 0
    expect(page.get_by_role("button", name="Edit mask")).to_be_visible()
    for left in (2, 1, 0):
        page.locator(".st-data-undo").get_by_role("button", name=re.compile("Undo")).click()
        until(
            lambda left=left: len(list((pictures / ".studio/undo").glob("*.json"))) == left,
            10, "the undo",
        )  # fmt: skip
    assert _contents(pictures) == before


def test_a_captioner_drafts_with_progress(visit: Visit, pictures: Path) -> None:
    page = visit.page(pictures)
    page.get_by_role("button", name="Caption all").click()
    page.get_by_label("Captioner").select_option("template", timeout=SLOW_MS)
    page.get_by_label("Which pictures").select_option("all")
    start = page.locator(".st-caption-sheet").get_by_role("button", name="Caption", exact=True)
    start.click()  # the template has {trigger}, and none is given: told where it was asked
    note = page.locator(".st-note")
    expect(note).to_contain_text("no trigger is given", timeout=SLOW_MS)
    note.get_by_role("button", name="Caption all").click()
    page.get_by_label("Trigger word").fill("sks")
    start.click()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    expect(note).to_contain_text("6 drafts wait", timeout=SLOW_MS)
    assert (pictures / "0.txt").read_text() == "a cat, red, number 0\n"
    draft = page.locator(".st-draft-box")
    expect(draft).to_contain_text("a photo of sks")
    draft.get_by_role("button", name="Keep").click()
    until(lambda: (pictures / "0.txt").read_text() == "a photo of sks\n", 10, "the caption")
    _card(page, "1.png")
    draft.get_by_role("button", name="Discard").click()
    expect(page.get_by_role("button", name="4 drafts")).to_be_visible()
    page.get_by_role("button", name="Keep all").click()
    until(lambda: (pictures / "tiny.txt").is_file(), 10, "all captions")
    assert (pictures / "1.txt").read_text() == "a cat, red, number 1\n"


def test_files_and_a_zip_are_added_and_trained_on(
    visit: Visit, studio: Studio, pictures: Path, tmp_path: Path
) -> None:
    page = visit.page()
    expect(page.get_by_role("heading", name=re.compile("Drop a folder"))).to_be_visible()
    (tmp_path / "notes.pdf").write_bytes(b"x")
    given = [*sorted(pictures.glob("[01].*")), tmp_path / "notes.pdf"]
    page.get_by_label("Pictures or zip").set_input_files(given)
    expect(page.locator(".st-sub").first).to_have_text(
        "2 pictures, all with captions", timeout=SLOW_MS
    )
    expect(page.locator(".st-note")).to_contain_text("Added 2 pictures and 2 captions. 1 other")
    (tmp_path / "more.zip").write_bytes(
        make_zip(("../0.png", (pictures / "3.png").read_bytes()), ("0.txt", b"another"))
    )
    page.get_by_label("Pictures or zip").set_input_files(tmp_path / "more.zip")
    expect(page.locator(".st-sub").first).to_have_text("3 pictures, all with captions")
    folder = page.locator(".st-sub").first.get_attribute("title") or ""
    assert sorted(p.name for p in Path(folder).glob("*.png")) == ["0-2.png", "0.png", "1.png"]
    page.get_by_role("button", name="Train on this").click()
    expect(page.get_by_role("tab", name="Train")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#st-data-folder")).to_have_value(folder)


def test_markup_in_names_and_captions_is_text(visit: Visit, tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)>, ${alert(2)}, '\"><script>alert(3)</script>"
    folder = tmp_path / "odd"
    draw(folder / "a<b onload=alert(4)>.png", 1)
    draw(folder / "plain.png", 2)
    (folder / "a<b onload=alert(4)>.txt").write_text(nasty)
    (folder / "plain.txt").write_text(nasty)
    page = visit.page(folder)
    expect(page.locator("#st-caption")).to_have_value(nasty)
    expect(page.locator(".st-d-tag", has_text="onerror=alert(1)")).to_be_visible()
    page.get_by_role("button", name="Find and replace").click()
    page.get_by_label("Find", exact=True).fill("alert")
    expect(page.locator(".st-changes li")).to_have_count(2)
    page.wait_for_timeout(300)


def test_only_the_cards_in_sight_exist(visit: Visit, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    draw(folder / "0000.png", 0, (64, 64))
    content = (folder / "0000.png").read_bytes()
    for number in range(1, 700):
        (folder / f"{number:04d}.png").write_bytes(content)
    page = visit.page(folder)
    cards, box = page.locator(".st-gallery-card"), page.locator(".st-gallery")
    for share in (0.1, 0.9, 0.3, 1, 0.5):
        box.evaluate("(e, share) => (e.scrollTop = share * e.scrollHeight)", share)
        page.wait_for_timeout(150)
        assert cards.count() < 80
    box.evaluate("e => (e.scrollTop = e.scrollHeight)")
    expect(page.locator('.st-gallery-card[aria-label^="0699.png"]')).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 820])
def test_every_state(visit: Visit, pictures: Path, tmp_path: Path, theme: str, width: int) -> None:
    """No overflow, every control named, every picture described; screenshots to look at."""
    (pictures / "broken.png").write_bytes((pictures / "0.png").read_bytes()[:300])
    shots = tmp_path / "shots"
    page = visit.page(width=width, theme=theme)
    sound(page, shots / "empty.png")
    page.get_by_label("Folder on this computer").fill("/no/such/folder")
    page.get_by_role("button", name="Open folder").click()
    expect(page.get_by_role("alert")).to_contain_text("there is no such folder")
    sound(page, shots / "error.png")
    page.get_by_label("Folder on this computer").fill(str(pictures))
    page.get_by_role("button", name="Open folder").click()
    expect(page.locator(".st-gallery-card[data-id]")).to_have_count(7)
    sound(page, shots / "open.png")
    _card(page, "broken.png")
    expect(page.get_by_text("This picture can’t be shown.")).to_be_visible()
    _card(page, "1.png")
    for name, sheet in (
        ("Open folder", "Open a folder"), ("Find and replace", "Find and replace"),
        ("Sizes", "Training sizes"), ("Caption all", "Caption pictures"),
    ):  # fmt: skip
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.get_by_role("heading", name=sheet, exact=True)).to_be_visible()
        page.wait_for_timeout(300)
        sound(page, shots / f"{sheet}.png")
    page.locator(".st-d-sheet").get_by_role("button", name="Close").click()
    for name in ("Crop", "Paint mask"):
        page.get_by_role("button", name=name, exact=True).click()
        sound(page, shots / f"{name}.png")
        page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Crop", exact=True)).to_be_visible()
    page.keyboard.press("Tab")
    ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert ring != "none"
