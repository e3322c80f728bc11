"""A mix is drawn: the base alone and the mix from the same noise, the newest request only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_diffusion.errors import InputError
from tests.ui.made_runs import make_run, picture
from ui.compose import tab
from ui.context import Context
from ui.drawing import Drawing, OnProgress

Ask = Callable[..., dict[str, Any]]


class Artist:
    """Draws once it may, or fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.error = ""
        self.asked: list[Drawing] = []
        self.may = threading.Event()
        self.may.set()

    def draw(self, drawing: Drawing, on_progress: OnProgress) -> Path:
        self.asked.append(drawing)
        on_progress("Drawing", 0.5)
        assert self.may.wait(20)
        if self.error:
            raise InputError(self.error)
        path = self.folder / f"{len(self.asked)}.png"
        picture(path, 1, "#123456")
        return path

    def scratch(self) -> Path:
        return self.folder

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def artist(tmp_path: Path) -> Artist:
    return Artist(tmp_path)


@pytest.fixture
def ask(context: Context, artist: Artist) -> Ask:
    """Call a server function of a studio with one finished run."""
    make_run(context.runs, "fox", steps=4, every=2)
    studio = replace(context, drawer=artist)  # type: ignore[arg-type]
    functions = {f.__name__: f for f in tab.server_functions(studio)}
    return lambda name, **request: functions[name](request)


_MIX = {
    "base": "bundled:demo_base", "prompt": " a fox ", "negative": "", "seed": "7", "steps": "4",
    "cfg": "2", "size": "64",
    "chosen": [{"id": "run/fox", "weight": 0.8, "parts": {"text": 0.5}, "blocks": {}}],
}  # fmt: skip


def _ended(ask: Ask, job: str) -> dict[str, Any]:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        told = ask("compose_job", job=job)
        if "error" in told or told["state"] in ("done", "replaced"):
            return told
        time.sleep(0.01)
    raise AssertionError("it never ended")


def test_both_pictures_come_from_the_same_noise(ask: Ask, artist: Artist) -> None:
    told = _ended(ask, ask("compose_draw", **_MIX)["job"])
    before, after = artist.asked
    assert before.adapters == () and after.adapters[0].weights == "0.8,text=0.5"
    assert replace(after, adapters=()) == before
    assert (before.prompt, before.seed, before.sampler) == ("a fox", 7, "ddim")
    assert told["before"] != told["after"] and "seed 7" in told["parameters"]


def test_a_place_becomes_a_mask(ask: Ask, artist: Artist) -> None:
    chosen = {**_MIX["chosen"][0], "region": "left", "there": "a red fox"}  # type: ignore[index]
    _ended(ask, ask("compose_draw", **{**_MIX, "chosen": [chosen]})["job"])
    placed = artist.asked[1].adapters[0]
    assert placed.mask is not None and Path(placed.mask).is_file()
    assert placed.prompt == "a red fox" and placed.window


def test_only_the_newest_of_the_waiting_is_drawn(ask: Ask, artist: Artist) -> None:
    artist.may.clear()
    first = ask("compose_draw", **_MIX)["job"]
    while not artist.asked:
        time.sleep(0.01)
    second = ask("compose_draw", **{**_MIX, "seed": "8"})["job"]
    third = ask("compose_draw", **{**_MIX, "seed": "9"})["job"]
    artist.may.set()
    states = [_ended(ask, job)["state"] for job in (first, second, third)]
    assert states == ["done", "replaced", "done"]
    assert [drawing.seed for drawing in artist.asked] == [7, 7, 9, 9]


def test_a_failure_is_one_sentence_and_the_next_one_is_drawn(ask: Ask, artist: Artist) -> None:
    artist.error = "There is not enough memory for this picture."
    assert _ended(ask, ask("compose_draw", **_MIX)["job"]) == {"error": artist.error}
    artist.error = ""
    assert _ended(ask, ask("compose_draw", **_MIX)["job"])["state"] == "done"


@pytest.mark.parametrize("request_", [None, 3, {}, {"job": ["x"]}, {"task": 5}, {"chosen": "all"}])
def test_odd_requests_get_one_sentence(ask: Ask, context: Context, request_: Any) -> None:
    for function in tab.server_functions(context):
        if function.__name__ in ("compose_offer", "compose_demo"):
            continue
        assert set(function(request_)) == {"error"}
