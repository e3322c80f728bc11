"""What the Runs screen is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ui.made_runs import PROMPTS, make_run, picture
from trainers.events import EventLog
from ui.follow import Follower
from ui.gate.shelf import Shelf
from ui.runs import view as run_view


def _view(run: object) -> dict[str, object]:
    follower = Follower(run)  # type: ignore[arg-type]
    follower.catch_up()
    return run_view.view(follower, Shelf())


def test_a_finished_run_can_be_downloaded_and_tried(runs: Path) -> None:
    view = _view(make_run(runs, "paper flowers", steps=20, every=10, exported=True))
    assert view["status"] == "finished" and view["share"] == 1.0
    exports = view["exports"]
    assert [each["step"] for each in exports] == [10, 20]  # type: ignore[attr-defined]
    assert exports[1]["name"] == "paper-flowers.safetensors"  # type: ignore[index]
    assert exports[1]["url"].startswith("/studio/adapter/")  # type: ignore[index]
    assert view["note"]["kind"] == "good" and view["took"] == "1 min 27 s"  # type: ignore[index]
    assert not view["resumable"]
    assert view["subtitle"] == "Demo base · Demo character · 14 pictures · rank 8"


def test_previews_carry_prompts_and_both_sizes(runs: Path) -> None:
    view = _view(make_run(runs, "a", steps=20, every=10))
    previews = view["previews"]
    assert [p["step"] for p in previews] == [0, 10, 20]  # type: ignore[attr-defined]
    picture = previews[0]["pictures"][1]  # type: ignore[index]
    assert picture["prompt"] == PROMPTS[1]
    assert picture["url"] != picture["thumbnail"]


def test_a_running_run_says_when_it_will_be_done(runs: Path) -> None:
    view = _view(make_run(runs, "a", steps=100, every=40, reached=60, outcome=None, alive=True))
    assert view["status"] == "running" and not view["resumable"]
    assert view["exports"] == []
    assert view["left_seconds"] == pytest.approx(40 * 0.3, rel=0.2)
    assert view["next_preview"] == {"step": 80, "seconds": pytest.approx(6.0)}
    figures = {f["label"]: f for f in view["figures"]}  # type: ignore[attr-defined]
    assert figures["Speed"]["value"] == "3.3" and figures["Speed"]["unit"] == "steps/s"
    assert figures["Memory"]["unit"] == "GB" and figures["Validation"]["value"] == "–"


def test_a_failed_run_gives_its_one_sentence_and_what_is_safe(runs: Path) -> None:
    view = _view(make_run(runs, "a", steps=100, every=40, reached=60, outcome="failed"))
    assert view["note"] == {
        "kind": "bad",
        "title": "The graphics card ran out of memory. Lower data.resolution_px.",
        "text": "Nothing is lost: step 40 is saved, and Resume goes on from there.",
    }
    assert view["resumable"] and view["short_of_memory"]


@pytest.mark.parametrize(("outcome", "saved"), [("stopped", 60), (None, 40)])
def test_stopped_and_interrupted_runs_can_be_resumed(
    runs: Path, outcome: str | None, saved: int
) -> None:
    view = _view(make_run(runs, "a", steps=100, every=40, reached=60, outcome=outcome))
    assert view["resumable"] and f"step {saved} is saved" in view["note"]["text"]  # type: ignore[index]


def test_a_paused_run_holds_its_place_until_it_goes_on(runs: Path) -> None:
    run = make_run(runs, "a", steps=100, reached=60, outcome=None, alive=True, paused=True)
    view = _view(run)
    assert view["status"] == "paused" and view["left_seconds"] is None
    assert view["note"]["title"] == "Paused at step 60."  # type: ignore[index]
    log = EventLog(run.events_file)
    log.write("preview", step=60, pictures=[])
    assert _view(run)["status"] == "paused", "it samples while it holds"
    log.write("unpaused", step=60)
    assert _view(run)["status"] == "running"
    log.write("paused", step=61, checkpoint="x")
    log.write("stopped", step=61, signal="SIGTERM", checkpoint="x")
    run.process_file.write_text('{"pid": 1, "created": 1.0}')
    assert _view(run)["status"] == "stopped"


def test_the_best_step_is_named_where_validation_rises_after_it(runs: Path) -> None:
    run = make_run(runs, "a", steps=100, every=50, validated=True)
    view = _view(run)
    assert view["best_step"] == 80
    assert "Step 80 looks best" in view["note"]["title"]  # type: ignore[index]
    assert [step for step, _ in view["validation"]] == list(range(10, 101, 10))  # type: ignore[attr-defined]
    follower = Follower(run)
    follower.glance()
    assert run_view.card(follower, Shelf())["line"] == "1 min 27 s · best at step 80"
    rising = _view(make_run(runs, "b", steps=100, every=50))
    assert rising["best_step"] is None


def test_a_waiting_run_says_what_for(runs: Path) -> None:
    follower = Follower(make_run(runs, "a", steps=4, reached=0, outcome=None))
    view = run_view.view(follower, Shelf(), "It starts in a moment.")
    assert view["status"] == "waiting"
    assert view["note"] == {"kind": "plain", "title": "Waiting.", "text": "It starts in a moment."}


def test_a_process_that_died_early_tells_what_its_log_knows(runs: Path) -> None:
    run = make_run(runs, "a", steps=10, reached=0, outcome=None)
    run.events_file.unlink()
    assert "before training began" in _view(run)["note"]["title"]  # type: ignore[index]
    run.log_file.write_text("No GPU is used.\nerror: no pictures in /x. Add some.\n")
    assert _view(run)["note"]["title"] == "no pictures in /x. Add some."  # type: ignore[index]


def test_phases_are_shown_until_the_first_step(runs: Path) -> None:
    run = make_run(runs, "a", steps=100, reached=0, outcome=None, alive=True)
    log = EventLog(run.events_file)
    log.write("phase", name="cache", text="Encoding pictures", done=3, total=14)
    assert _view(run)["phase"] == "Encoding pictures (3 of 14)"
    assert _view(run)["phase_share"] == pytest.approx(3 / 14)
    log.write("step", step=1, loss=0.1, lr=1e-4, grad_norm=1, seconds=0.1, peak_bytes=0)
    assert _view(run)["phase"] == ""


@pytest.mark.parametrize(
    "file",
    ["../../secret.png", "/etc/passwd", "previews/../../secret.png", "link.png", "", ".", "\x00"],
)
def test_a_preview_outside_the_run_is_not_shown(runs: Path, file: str) -> None:
    picture(runs.parent / "secret.png", 1, "#123456")
    run = make_run(runs, "a", steps=4, reached=2, outcome=None)
    (run.path / "link.png").symlink_to(runs.parent / "secret.png")
    log = EventLog(run.events_file)
    log.write("preview", step=3, pictures=[{"prompt": "x", "file": file}])
    assert [p["step"] for p in _view(run)["previews"]] == [0]  # type: ignore[attr-defined]


def test_control_characters_are_taken_out_of_what_is_shown(runs: Path) -> None:
    nasty = "a\x1b[31m\u202e<script>alert(1)</script>\x00"
    run = make_run(runs, "a", steps=4, every=2, prompts=(nasty,), outcome="failed", failure=nasty)
    run.log_file.write_text(f"one\r{nasty}\n")
    shown = json.dumps(_view(run), ensure_ascii=False) + run_view.log_tail(run)
    assert not set("\x1b\u202e\x00") & set(shown)


def test_a_damaged_spec_is_told_not_raised(runs: Path) -> None:
    run = make_run(runs, "a", steps=4)
    for text in ("not toml [", "[schedule]\nsteps = -1\n", ""):
        run.spec_file.write_text(text)
        follower = Follower(run)
        follower.catch_up()
        json.dumps([run_view.card(follower, Shelf()), run_view.view(follower, Shelf())])
        assert run_view.settings_text(run)


def test_the_log_is_cut_to_its_end(runs: Path) -> None:
    run = make_run(runs, "a", steps=4)
    run.log_file.write_text("\n".join(f"line {n}" for n in range(100_000)))
    text = run_view.log_tail(run)
    assert text.endswith("line 99999") and len(text) < 10_000
    run.log_file.unlink()
    assert run_view.log_tail(run) == "Nothing has been logged yet."
