"""The studio as a user meets it, in a real browser, on the real demo."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from safetensors import safe_open

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, Page, expect

from tests.ui.browser import Watch, open_browser, open_page, open_studio, until
from tests.ui.made_runs import make_run
from trainers import jobs, layering
from trainers.jobs import RunDir
from ui.runs.tab import DEMO_PRESET

pytestmark = pytest.mark.browser
RUN_SECONDS = 420


class _Hostile(BaseHTTPRequestHandler):
    """Serves an empty page of another origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>hostile</title><body></body>")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests here."""
    with open_browser() as opened:
        yield opened


def _title_step(page: Page) -> int:
    text = page.locator(".st-ends span").first.inner_text()
    found = re.match(r"Step ([\d,]+)", text)
    return int(found[1].replace(",", "")) if found else -1


def test_first_start_to_a_downloaded_adapter(browser: Browser, runs: Path, tmp_path: Path) -> None:
    with open_studio(runs) as studio:
        watch = Watch(studio.address)
        context, page = open_page(browser, studio, watch)
        expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
        assert "token" not in page.url

        _demo_starts_and_stops(page, runs)
        _form_starts_a_run(page, runs)
        _small_run_finishes(page, runs)
        _try_it(page)
        _download(page, tmp_path)
        context.close()
        watch.check()


def _demo_starts_and_stops(page: Page, runs: Path) -> None:
    page.get_by_role("button", name="Run the demo").click()
    expect(page.get_by_role("heading", name="demo-character")).to_be_visible(timeout=20_000)
    _stop_once_it_runs(page, runs / "demo-character")
    expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=60_000)
    stopped = RunDir(runs / "demo-character")
    until(lambda: jobs.status(stopped) == "stopped", 30, "the process to end")


def _stop_once_it_runs(page: Page, run: Path) -> None:
    until(lambda: jobs.last_event(RunDir(run)) is not None, 90, "a first event")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Stop and save").click()


def _form_starts_a_run(page: Page, runs: Path) -> None:
    page.keyboard.press("2")
    rate = page.locator("#st-optim-lr_unet")
    rate.fill("fast")
    problem = page.locator("#st-optim-lr_unet-problem")
    expect(problem).to_have_text("Must be a valid number.")
    page.get_by_role("button", name="Start training").click()
    expect(rate).to_be_focused()
    rate.fill("0.002")
    expect(problem).to_be_hidden()
    page.locator("#st-save-name").fill("short one")
    page.locator("#st-schedule-steps").fill("30")
    page.get_by_role("button", name="Copy command").click()
    command = page.locator(".st-command")
    expect(command).to_contain_text("--preset demo-character")
    expect(command).to_contain_text("--schedule.steps 30")
    page.locator("#st-schedule-steps").press("Control+Enter")
    expect(page.get_by_role("heading", name="short-one")).to_be_visible(timeout=20_000)
    assert "run=short-one" in page.url
    _stop_once_it_runs(page, runs / "short-one")
    expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=60_000)
    spec = RunDir(runs / "short-one").spec()
    assert (spec.schedule.steps, spec.optim.lr_unet) == (30, 0.002)


def _small_run_finishes(page: Page, runs: Path) -> None:
    """The demo's settings without its class pictures, so that it takes seconds."""
    quick = {
        "data": {"class_pictures": 0},
        "schedule": {"steps": 30, "batch_size": 2},
        "preview": {"every_steps": 10, "sampling_steps": 6},
        "save": {"every_steps": 20},
    }
    spec = layering.build_spec([layering.read_preset(DEMO_PRESET), quick])
    jobs.prepare(runs, "quick", spec)
    page.get_by_role("button", name=re.compile("quick")).click()
    page.get_by_role("button", name="Start", exact=True).click()

    until(lambda: page.locator(".st-strip [data-step]").count() >= 1, RUN_SECONDS, "a preview")
    until(lambda: _title_step(page) > 0, RUN_SECONDS, "a first step")
    expect(page.locator(".st-chart canvas")).to_be_visible()
    _reload_adopts(page, runs)
    expect(page.locator(".st-note.st-good")).to_contain_text("Finished", timeout=RUN_SECONDS * 1000)
    assert _title_step(page) == 30
    assert page.locator(".st-strip [data-step]").count() == 4
    for image in page.locator(".st-stage img").all():
        assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 0


def _reload_adopts(page: Page, runs: Path) -> None:
    """A reload in the middle shows the same process going on."""
    alive = [run for run in jobs.list_runs(runs) if jobs.is_alive(run)]
    pids = [run.process_file.read_text() for run in alive]
    page.reload()
    expect(page.get_by_role("heading", name="quick")).to_be_visible(timeout=30_000)
    assert [run.process_file.read_text() for run in alive] == pids


def _try_it(page: Page) -> None:
    page.get_by_role("button", name="Try in Compose").click()
    expect(page.locator(".st-mix b")).to_have_text("quick", timeout=20_000)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(re.compile("sks"))
    picture = page.locator(".st-frame img[data-before]")
    expect(picture).to_be_visible(timeout=180_000)
    drawn = picture.get_attribute("src")
    assert drawn != picture.get_attribute("data-before")
    page.get_by_label("Weight, exact").fill("0")
    expect(picture).not_to_have_attribute("src", drawn or "", timeout=180_000)
    same = page.evaluate(
        """async () => {
          const picture = document.querySelector(".st-frame img[data-before]");
          const bytes = await Promise.all([picture.src, picture.dataset.before].map(async (url) =>
            new Uint8Array(await (await fetch(url)).arrayBuffer()).join()));
          return bytes[0] === bytes[1];
        }"""
    )
    assert same, "at weight 0 both pictures must be the base's"
    _fold_with_the_demo_style(page)


def _fold_with_the_demo_style(page: Page) -> None:
    """A second adapter from the demo's, and one file out of both that programs read."""
    page.get_by_label("Draw as I change weights").uncheck()
    page.get_by_label("Weight, exact").fill("0.8")
    page.get_by_role("button", name="Get the demo adapters").click()
    page.locator(".st-adapter", has_text="Demo style").click()
    expect(page.locator(".st-mix")).to_have_count(2)
    # the style's words lead, as in its captions
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(re.compile("^zwx style, .*sks"))
    page.get_by_role("button", name="Fold into one file").click()
    page.get_by_role("button", name="Fold", exact=True).click()
    expect(page.locator(".st-report")).to_contain_text("Largest error", timeout=120_000)
    reader = page.locator(".st-readers li", has_text="sd-scripts")
    expect(reader).to_contain_text("reads it", timeout=120_000)
    with page.expect_download() as caught:
        page.get_by_role("link", name="Export").click()
    assert caught.value.suggested_filename == "quick + Demo style.safetensors"
    page.keyboard.press("Escape")


def _download(page: Page, folder: Path) -> None:
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Runs").click()
    with page.expect_download() as caught:
        page.get_by_role("link", name="Export step 30").click()
    assert caught.value.suggested_filename == "quick.safetensors"
    target = folder / "quick.safetensors"
    caught.value.save_as(target)
    with safe_open(target, framework="np") as file:
        assert len(list(file.keys())) > 10


def test_keys_and_deep_links(browser: Browser, runs: Path) -> None:
    make_run(runs, "one", steps=20, every=5)
    make_run(runs, "two", steps=20, every=10)
    with open_studio(runs) as studio:
        watch = Watch(studio.address)
        context, page = open_page(browser, studio, watch)
        page.goto(f"{studio.address}/?tab=runs&run=one&step=10")
        shown = page.locator(".st-card-head .st-muted")
        expect(page.get_by_role("heading", name="one", exact=True)).to_be_visible()
        expect(shown).to_have_text("Step 10")
        page.keyboard.press("ArrowRight")
        expect(shown).to_have_text("Step 15")
        assert "step=15" in page.url
        page.keyboard.down("b")
        expect(shown).to_have_text("Before training")
        page.keyboard.up("b")
        expect(shown).to_have_text("Step 15")
        box = page.locator(".st-chart canvas").bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + 50, box["y"] + 100)
        expect(shown).to_have_text("Before training")
        dark = page.evaluate("document.body.classList.contains('dark')")
        page.keyboard.press("t")
        page.reload()
        expect(shown).to_have_text("Before training")
        assert page.evaluate("document.body.classList.contains('dark')") is not dark
        page.goto(f"{studio.address}/?tab=train")
        expect(page.get_by_role("button", name="Start training")).to_be_visible()
        page.locator("#st-save-name").press("t")
        assert page.evaluate("document.body.classList.contains('dark')") is not dark
        context.close()
        watch.check()


def test_names_prompts_and_logs_are_text(browser: Browser, runs: Path, tmp_path: Path) -> None:
    """Markup in anything a stranger may have written is shown, never run."""
    nasty = "<img src=x onerror=alert(1)><script>alert(2)</script>'\"${alert(3)}{{alert(4)}}"
    run = make_run(
        runs, "plain", steps=8, every=4, prompts=(nasty, "x"), outcome="failed", failure=nasty
    )
    run.log_file.write_text(nasty)
    folder = tmp_path / "pictures"
    folder.mkdir()
    (run.path / "previews/000000-0.png").rename(folder / "a<b onload=alert(5)>.png")
    (folder / "a<b onload=alert(5)>.txt").write_text(nasty)
    make_run(runs, "done", steps=8, every=4, prompts=(nasty,))
    with open_studio(runs) as studio:
        watch = Watch(studio.address)
        context, page = open_page(browser, studio, watch)
        page.locator('[data-run="plain"]').click()
        expect(page.locator(".st-note")).to_contain_text("<script>alert(2)</script>")
        page.locator("summary", has_text="Log").click()
        expect(page.locator(".st-stage pre").first).to_contain_text("onerror=alert(1)")
        page.keyboard.press("2")
        field = page.locator("#st-data-folder")
        field.fill("")
        expect(page.locator(".st-dataset")).to_contain_text("Type the folder")
        field.press_sequentially(str(folder))  # typed, as people do; the card follows
        expect(page.locator(".st-thumbs figcaption")).to_contain_text("onerror=alert(1)")
        page.locator('[id="st-tabs"]').get_by_role("tab", name="Runs").click()
        page.locator('[data-run="done"]').click()
        page.get_by_role("button", name="Try in Compose").click()
        expect(page.locator(".st-adapter")).to_contain_text("done")
        page.wait_for_timeout(500)
        context.close()
        watch.check()


def test_a_run_outlives_the_studio(browser: Browser, runs: Path) -> None:
    """Kill the studio: the page says so; a new one adopts the run."""
    make_run(runs, "running", steps=20, every=10, reached=12, outcome=None, alive=True)
    with open_studio(runs) as studio:
        context, page = open_page(browser, studio, Watch(studio.address))
        studio.process.kill()
        away = page.locator(".st-away")
        expect(away).to_contain_text("Training goes on", timeout=15_000)
        expect(page.get_by_role("heading", name="running")).to_be_visible()
        port = studio.address.rpartition(":")[2]
        time.sleep(0.5)
        with open_studio(runs, "--port", port) as again:
            assert again.address == studio.address
            expect(away).to_contain_text("open its new link", timeout=30_000)
            page.goto(again.url)
            expect(page.get_by_role("heading", name="running")).to_be_visible(timeout=30_000)
            expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
        context.close()


def test_a_password_opens_the_studio(browser: Browser, runs: Path) -> None:
    make_run(runs, "one", steps=8)
    with open_studio(runs, "--password", "open sesame") as studio:
        assert "token" not in studio.url
        context = browser.new_context()
        page = context.new_page()
        page.goto(studio.url)
        page.get_by_label("Password").fill("open says me")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("That is not the password.")
        watch = Watch(studio.address)
        watch.on(page)
        page.get_by_label("Password").fill("open sesame")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="one")).to_be_visible(timeout=30_000)
        context.close()
        watch.check()


def test_a_page_of_another_site_can_do_nothing(browser: Browser, runs: Path) -> None:
    """A hostile page on another port of this computer, with the studio open in the same browser."""
    make_run(runs, "one", steps=8)
    with open_studio(runs) as studio:
        context, page = open_page(browser, studio, Watch(studio.address))
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Hostile)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hostile = context.new_page()
        hostile.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        results = hostile.evaluate(
            """async (target) => {
              const attempts = [
                [`${target}/gradio_api/component_server`, {method: "POST", body: "{}"}],
                [`${target}/gradio_api/queue/join`, {method: "POST", body: "{}",
                  headers: {"content-type": "text/plain"}, credentials: "include"}],
                [`${target}/gradio_api/queue/join`, {method: "POST", body: "{}", mode: "no-cors",
                  credentials: "include"}],
                [`${target}/config`, {credentials: "include"}],
                ...["call/run_the_demo", "run/run_the_demo", "call/stop_run"].map((path) =>
                  [`${target}/gradio_api/${path}`, {method: "POST", credentials: "include",
                    mode: "no-cors", body: JSON.stringify({data: ["one"]})}]),
                [`${target}/studio/upload?name=x`, {method: "POST", credentials: "include",
                  mode: "no-cors", body: "x"}],
              ];
              return Promise.all(attempts.map(([url, options]) =>
                fetch(url, options).then((r) => r.type === "opaque" ? "opaque" : r.status,
                  () => "blocked")));
            }""",
            studio.address,
        )
        assert set(results) <= {"blocked", "opaque"}
        framed = hostile.evaluate(
            """(target) => new Promise((done) => {
              const frame = document.createElement("iframe");
              frame.src = target;
              frame.onload = () => {
                try { done(Boolean(frame.contentDocument?.body?.textContent)); }
                catch { done(false); }
              };
              document.body.append(frame);
            })""",
            studio.address,
        )
        assert framed is False
        hostile.evaluate(
            """(target) => {
              const form = document.createElement("form");
              form.action = `${target}/gradio_api/call/run_the_demo`;
              form.method = "post";
              form.enctype = "text/plain";
              const field = document.createElement("input");
              field.name = JSON.stringify({ data: [] }).slice(0, -1) + ',"x":"';
              field.value = '"}'; // name=value is JSON, as the browser sends it
              form.append(field);
              document.body.append(form);
              form.submit();
            }""",
            studio.address,
        )
        expect(hostile.locator("body")).to_contain_text("Another site may not speak")
        # a name that the attacker has pointed at this computer
        port = studio.address.rpartition(":")[2]
        rebound = hostile.goto(f"http://evil.test:{port}/gradio_api/info")
        assert rebound is not None and rebound.status == 403
        assert [run.path.name for run in jobs.list_runs(runs)] == ["one"]
        assert not (runs / "queue.json").exists()
        expect(page.get_by_role("heading", name="one")).to_be_visible()
        server.shutdown()
        context.close()
