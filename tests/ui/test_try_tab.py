"""What the Try tab offers and asks to be drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_diffusion.errors import InputError
from tests.ui.made_runs import PROMPTS, make_run, picture
from trainers.events import EventLog
from ui import try_tab
from ui.context import Context
from ui.drawing import Drawing, OnProgress


class Artist:
    """Draws at once, or fails."""

    def __init__(self, folder: Path, error: str = "") -> None:
        self.folder, self.error = folder, error
        self.asked: list[Drawing] = []

    def draw(self, drawing: Drawing, on_progress: OnProgress) -> Path:
        if self.error:
            raise InputError(self.error)
        self.asked.append(drawing)
        on_progress("Drawing", 0.5)
        path = self.folder / f"{len(self.asked)}.png"
        picture(path, 1, "#123456")
        return path

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def studio(context: Context, tmp_path: Path) -> Context:
    """A studio with one finished run that exported a copy at step 2."""
    run = make_run(context.runs, "one", steps=4, every=2)
    (run.path / "exports").mkdir()
    (run.path / "exports/one-step2.safetensors").write_bytes(b"x")
    log = EventLog(run.events_file)
    log.write("export", step=2, file="exports/one-step2.safetensors")
    log.write("finished", step=4, file="one.safetensors", seconds=3.0)
    return replace(context, drawer=Artist(tmp_path))  # type: ignore[arg-type]


def _draw(context: Context, *given: Any) -> list[tuple[Any, Any]]:
    return list(try_tab._draw(context, *given))


def test_finished_runs_and_their_copies_are_offered(studio: Context) -> None:
    make_run(studio.runs, "failed", steps=4, reached=2, outcome="failed")
    assert [label for label, _ in try_tab.choices(studio)] == ["one", "one, step 2"]


def test_both_pictures_come_from_the_same_noise(studio: Context) -> None:
    value = try_tab.choices(studio)[0][1]
    *busy, (said, shown) = _draw(studio, value, " a sks cat ", 0.8, "7")
    assert all("st-bar" in text for text, _ in busy) and said == ""
    before, after = studio.drawer.asked  # type: ignore[attr-defined]
    assert before.adapters == () and after.adapters[0].weight == 0.8
    assert replace(after, adapters=()) == before
    assert (before.prompt, before.seed, before.base) == ("a sks cat", 7, "bundled:demo_base")
    assert shown.count("<img") == 2 and "seed 7" in shown


def test_a_copy_from_the_way_is_drawn_with_its_own_file(studio: Context) -> None:
    value = try_tab.choices(studio)[1][1]
    _draw(studio, value, "x", 1, 1)
    file = studio.drawer.asked[1].adapters[0].file  # type: ignore[attr-defined]
    assert file.endswith("exports/one-step2.safetensors")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, "x", 1, "1"), "Choose an adapter"),
        (("{", "x", 1, "1"), "Choose an adapter"),
        ((json.dumps(["../one", None]), "x", 1, "1"), "is gone"),
        ((json.dumps(["one", 99]), "x", 1, "1"), "is gone"),
        ((json.dumps(["one", {}]), "x", 1, "1"), "Choose an adapter"),
        ((json.dumps(["one", None]), "  ", 1, "1"), "Type what to draw"),
        ((json.dumps(["one", None]), "x", 1, "-1"), "Seed"),
        ((json.dumps(["one", None]), "x", 1, "1e3"), "Seed"),
        ((json.dumps(["one", None]), "x", 1, "99999999999"), "Seed"),
    ],
)
def test_what_can_not_be_drawn_is_one_sentence(
    studio: Context, given: tuple[Any, ...], expected: str
) -> None:
    ((said, _),) = _draw(studio, *given)
    assert expected in said and "st-bad" in said
    assert not studio.drawer.asked  # type: ignore[attr-defined]


def test_the_workers_sentence_and_the_prompt_are_escaped(studio: Context, tmp_path: Path) -> None:
    value = try_tab.choices(studio)[0][1]
    *_, (_, shown) = _draw(studio, value, "<script>alert(1)</script>", 1, 1)
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    failing = replace(studio, drawer=Artist(tmp_path, "<b>no"))  # type: ignore[arg-type]
    *_, (said, _) = _draw(failing, value, "x", 1, 1)
    assert "&lt;b&gt;no" in said


def test_prompts_of_the_run_are_suggested(studio: Context) -> None:
    assert try_tab._prompts(studio, try_tab.choices(studio)[0][1]) == list(PROMPTS)
    assert try_tab._prompts(studio, "nonsense") == []
