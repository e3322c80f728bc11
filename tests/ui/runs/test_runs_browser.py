"""The Runs and Train tabs in a real browser, on one studio whose runs are made up."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, Page, expect

from tests.ui import made_runs
from tests.ui.browser import Studio, Watch, fits, open_browser, open_page, open_studio, sound, until
from trainers import control
from trainers.jobs import RunDir
from trainers.queue import Queue

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests here."""
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in every state, and three in line behind one that never ends."""
    runs = tmp_path_factory.mktemp("runs")
    made_runs.every_state(runs)
    made_runs.make_waiting(runs, "waiting", "second", "third")
    return runs


@pytest.fixture(scope="module")
def studio(shared_runs: Path) -> Iterator[Studio]:
    """One studio for all tests here."""
    with open_studio(shared_runs) as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, studio: Studio) -> Iterator[Page]:
    """A fresh page that must not complain."""
    watch = Watch(studio.address)
    context, opened = open_page(browser, studio, watch)
    yield opened
    context.close()
    watch.check()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 820])
def test_every_screen(
    browser: Browser, studio: Studio, tmp_path: Path, theme: str, width: int
) -> None:
    """No overflow, every control named, every picture described; screenshots to look at."""
    watch = Watch(studio.address)
    context, page = open_page(browser, studio, watch, width=width, theme=theme)
    assert page.evaluate("document.body.classList.contains('dark')") is (theme == "dark")
    for name in (
        "finished", "failed", "stopped", "interrupted", "paused", "running", "waiting"
    ):  # fmt: skip
        page.locator(f'.st-card-button[data-run="{name}"]').click()
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
        sound(page, tmp_path / f"{name}.png")
    for tab in page.get_by_role("tab").all_inner_texts():
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_timeout(600)
        sound(page, tmp_path / f"{tab}.png")
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("button", name="Everything").click()
    sound(page, tmp_path / "everything.png")
    context.close()
    watch.check()


@pytest.mark.parametrize("width", [390, 360])
def test_a_phone_has_room_for_every_tab(
    browser: Browser, studio: Studio, tmp_path: Path, width: int
) -> None:
    watch = Watch(studio.address)
    context, page = open_page(browser, studio, watch, width=width)
    tabs = page.get_by_role("tab").all_inner_texts()
    assert tabs == ["Dataset", "Train", "Runs", "Compose", "Tools", "Settings"]
    for name in tabs:
        page.get_by_role("tab", name=name, exact=True).click()
        page.wait_for_timeout(400)
        fits(page)
        sound(page, tmp_path / f"{name}-{width}.png")
    page.get_by_role("tab", name="Runs").click()
    page.locator('.st-card-button[data-run="finished"]').click()
    fits(page)
    page.get_by_role("button", name="Try in Compose").click()
    expect(page.get_by_role("tab", name="Compose")).to_have_attribute("aria-selected", "true")
    context.close()
    watch.check()


def test_folded_tabs_open_too(browser: Browser, studio: Studio) -> None:
    watch = Watch(studio.address)
    context, page = open_page(browser, studio, watch, width=240)
    assert "Settings" not in page.get_by_role("tab").all_inner_texts()
    page.keyboard.press("6")
    expect(page.get_by_text("Does anything leave this computer?")).to_be_visible()
    assert "tab=settings" in page.url
    page.reload()
    expect(page.get_by_text("Does anything leave this computer?")).to_be_visible()
    context.close()
    watch.check()


def _order(page: Page) -> list[str | None]:
    cards = page.locator(".st-card-row[draggable=true] [data-run]").all()
    return [card.get_attribute("data-run") for card in cards]


def test_the_line_is_ordered_by_mouse_and_keys(page: Page, shared_runs: Path) -> None:
    assert _order(page) == ["waiting", "second", "third"]
    third, first = (page.locator(f'[data-run="{name}"]') for name in ("third", "waiting"))
    third.drag_to(first, target_position={"x": 60, "y": 4})
    until(lambda: Queue(shared_runs).names() == ["third", "waiting", "second"], 10, "the new order")
    page.reload()
    expect(page.locator('.st-card-row[draggable="true"]')).to_have_count(3)
    assert _order(page) == ["third", "waiting", "second"]
    page.locator('[data-run="third"]').focus()
    page.keyboard.press("Alt+ArrowDown")
    until(lambda: _order(page) == ["waiting", "third", "second"], 10, "one place down")
    focused = page.evaluate("document.activeElement.dataset.run")
    assert focused == "third"
    page.keyboard.press("Alt+ArrowDown")
    until(lambda: Queue(shared_runs).names() == ["waiting", "second", "third"], 10, "the end")


def test_a_run_is_steered(page: Page, shared_runs: Path) -> None:
    run = RunDir(shared_runs / "running")
    page.locator('.st-rail [data-run="running"]').click()
    for name, asked in (("Sample now", "sample"), ("Save now", "save")):
        page.get_by_role("button", name=name).click()
        until(lambda asked=asked: (run.control / asked).exists(), 10, asked)
        expect(page.get_by_role("button", name=name)).to_be_enabled()
    assert control.take(run.control) == ["save", "sample"]
    pause = page.get_by_role("button", name="Pause", exact=True)
    pause.click()
    expect(pause).to_be_disabled(timeout=300)
    until(lambda: control.is_paused(run.control), 10, "the pause")
    control.clear(run.control)


def test_a_paused_run_goes_on(page: Page, shared_runs: Path) -> None:
    run = RunDir(shared_runs / "paused")
    control.pause(run.control)
    page.locator('[data-run="paused"]').click()
    expect(page.locator(".st-stage .st-note")).to_contain_text("Paused at step 12.")
    page.get_by_role("button", name="Resume", exact=True).click()
    until(lambda: not control.is_paused(run.control), 10, "going on")


def test_runs_are_found_and_compared(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("interrup")
    expect(page.locator(".st-card-button")).to_have_count(1)
    page.get_by_label("Search runs").fill("")
    for name in ("finished", "stopped"):
        page.get_by_label(f"Compare {name}").check(force=True)
    page.get_by_role("button", name="Compare 2 runs").click()
    expect(page.get_by_role("heading", name="2 runs compared")).to_be_visible()
    expect(page.locator(".st-columns img")).to_have_count(4)
    page.get_by_role("button", name="Back to the run").click()
    expect(page.locator(".st-chart canvas").first).to_be_visible()


def test_the_chart_zooms_and_resets(page: Page) -> None:
    page.locator('[data-run="finished"]').click()
    expect(page.get_by_role("heading", name="finished", exact=True)).to_be_visible()
    canvas = page.locator(".st-stage .st-chart canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, box["y"] + 80, steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Whole run").click()
    expect(page.get_by_role("button", name="Whole run")).to_be_hidden()


def test_a_waiting_run_is_edited(page: Page, shared_runs: Path) -> None:
    page.locator('[data-run="third"]').click()
    page.get_by_role("button", name="Edit").click()
    expect(page.locator(".st-side")).to_contain_text("changing the waiting run third")
    page.locator("#st-adapter-rank").fill("5")
    page.get_by_role("button", name="Save changes").click()
    expect(page.get_by_role("heading", name="third", exact=True)).to_be_visible()
    assert RunDir(shared_runs / "third").spec().adapter.rank == 5
    assert "third" in Queue(shared_runs).names()


def test_another_preset_keeps_what_was_typed(page: Page, tmp_path: Path) -> None:
    pictures = tmp_path / "my_cat"
    pictures.mkdir()
    page.get_by_role("tab", name="Train").click()
    subjects = page.get_by_role("group", name="What are you teaching?")
    family, base = page.locator("#st-family"), page.locator("#st-model-base")
    expect(family).to_have_value("demo")
    expect(subjects.get_by_text("Either, in little memory")).to_be_disabled()
    page.locator("#st-data-folder").fill(str(pictures))
    expect(page.locator("#st-save-name")).to_have_value("my-cat")
    page.locator("#st-data-trigger").fill("ohwx")
    family.select_option("sdxl")
    expect(base).to_have_value("stabilityai/stable-diffusion-xl-base-1.0")
    subjects.get_by_text("A style").click()
    expect(page.locator("#st-schedule-steps")).to_have_value("1500")
    expect(page.locator("#st-data-folder")).to_have_value(str(pictures))
    expect(page.locator("#st-save-name")).to_have_value("my-cat")
    expect(page.locator("#st-data-trigger")).to_have_value("ohwx")
    base.fill("/models/ponyDiffusionV6.safetensors")  # the settings follow the base
    expect(family).to_have_value("pony")
    expect(subjects.get_by_text("A style")).to_have_attribute("aria-pressed", "true")
    expect(base).to_have_value("/models/ponyDiffusionV6.safetensors")
    family.select_option("sd15")  # and a base of another kind goes
    expect(base).to_have_value("stable-diffusion-v1-5/stable-diffusion-v1-5")
    expect(page.locator("#st-data-trigger")).to_have_value("ohwx")


def test_new_runs_begin_with_what_settings_say(page: Page) -> None:
    page.get_by_role("tab", name="Settings").click()
    page.get_by_label("Precision").select_option("fp32")
    page.get_by_label("Device", exact=True).fill("cpu")
    page.get_by_label("Device", exact=True).fill("auto")  # the schema's own: nothing to keep
    assert page.evaluate("Studio.defaults()") == {"model.precision": "fp32"}
    page.reload()
    expect(page.get_by_label("Precision")).to_have_value("fp32")
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("button", name="Everything").click()
    expect(page.locator("#st-model-precision")).to_have_value("fp32")
    page.get_by_role("button", name="Simple").click()
    page.locator("#st-family").select_option("sd15")
    page.get_by_role("button", name="Everything").click()
    expect(page.locator("#st-model-precision")).to_have_value("fp32")
    expect(page.locator("#st-model-base")).to_have_value(re.compile("stable-diffusion-v1-5"))


def test_the_form_begins_with_the_base_of_the_last_run(page: Page) -> None:
    page.evaluate("Studio.rememberBase('sdxl-style', '/models/mine.safetensors')")
    page.get_by_role("tab", name="Train").click()
    expect(page.locator("#st-model-base")).to_have_value("/models/mine.safetensors")
    expect(page.locator("#st-family")).to_have_value("sdxl")
    expect(page.locator("#st-data-folder")).to_have_value("")


def test_the_form_begins_with_the_open_pictures(page: Page) -> None:
    page.get_by_role("tab", name="Dataset").click()
    page.get_by_role("button", name="Use the demo pictures").click()
    expect(page.get_by_role("button", name="Train on this")).to_be_visible(timeout=20_000)
    page.get_by_role("tab", name="Train").click()
    expect(page.locator("#st-data-folder")).to_have_value(re.compile("datasets/demo-character$"))
    expect(page.locator("#st-save-name")).to_have_value("demo-character")


def test_settings_are_searched_loaded_and_saved(page: Page, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("button", name="Everything").click()
    page.get_by_label("Search all settings").fill("min snr")
    expect(page.locator(".st-field:visible")).to_have_count(1)
    page.locator("#st-objective-min_snr_gamma").fill("-1")
    expect(page.locator("#st-objective-min_snr_gamma-problem")).to_contain_text("greater than 0")
    page.get_by_label("Search all settings").fill("optim.kind")
    page.locator("#st-optim-kind").select_option("prodigy")
    page.get_by_label("Search all settings").fill("lr_unet")
    expect(page.locator("#st-optim-lr_unet")).to_have_value("1.0")

    page.get_by_role("button", name="Simple").click()
    page.get_by_role("button", name=re.compile("Start training|Add to queue")).click()
    wrong = page.locator("#st-objective-min_snr_gamma")
    expect(wrong).to_be_focused()  # what is wrong is not among the few, so everything is shown
    (tmp_path / "mine.toml").write_text('[adapter]\nrank = 7\n[save]\nname = "mine"\n')
    page.locator("input[type=file]").set_input_files(tmp_path / "mine.toml")
    expect(page.locator("#st-adapter-rank")).to_have_value("7")
    expect(wrong).to_have_value("")
    with page.expect_download() as caught:
        page.get_by_role("button", name="Save TOML").click()
    assert caught.value.suggested_filename == "mine.toml"
    saved = tmp_path / "saved.toml"
    caught.value.save_as(saved)
    assert tomllib.loads(saved.read_text())["adapter"]["rank"] == 7


def test_a_sweeps_runs_stand_together(page: Page, shared_runs: Path) -> None:
    made_runs.make_sweep(shared_runs, "ranks", (4, 8, 16))
    group = page.locator(".st-sweep", has_text="ranks")
    expect(group.locator("[data-run]")).to_have_count(3)
    expect(group.locator('[data-run="ranks/rank-8"] b')).to_have_text("rank-8")
    group.locator('[data-run="ranks/rank-8"]').click()
    expect(page.get_by_role("heading", name="ranks / rank-8", exact=True)).to_be_visible()
    expect(page.locator(".st-strip [data-step]")).to_have_count(3)
    page.reload()
    expect(page.get_by_role("heading", name="ranks / rank-8", exact=True)).to_be_visible()
    page.get_by_role("button", name="Compare the runs of ranks").click()
    expect(page.get_by_role("heading", name="3 runs compared")).to_be_visible()
    expect(page.get_by_role("row", name="adapter.rank 16 8 4")).to_be_visible()


def test_stopping_one_run_of_a_sweep_asks_for_all(page: Page, shared_runs: Path) -> None:
    made_runs.make_sweep(shared_runs, "going", (4, 8), alive=True)
    page.locator('[data-run="going/rank-4"]').click()
    page.get_by_role("button", name="Stop", exact=True).click()
    dialog = page.get_by_role("dialog", name="Stop this run")
    expect(dialog).to_contain_text("Stop all 2 runs of the sweep 'going'?")
    dialog.get_by_role("button", name="Keep going").click()


def test_the_list_of_keys(page: Page) -> None:
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("light or dark")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_have_count(0)
