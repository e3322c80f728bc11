"""The studio's end of the drawing process, against a stand-in for the worker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import ui.drawing
from lora_diffusion.errors import InputError
from ui.drawing import Drawer, Drawing

_DRAWING = Drawing("base", (), "a cat", "", 1, "ddim", 4, 7.0, 64)
_WORKER = """
import json, pathlib, sys
for line in sys.stdin:
    request = json.loads(line)
    pathlib.Path({calls!r}).open("a").write(line)
    prompt = request["prompt"]
    if prompt == "die":
        print("the last words", file=sys.stderr)
        sys.exit(3)
    if prompt == "babble":
        print("not json", flush=True)
        continue
    if prompt == "refuse":
        print(json.dumps({{"event": "error", "text": "No \\x1b[31mcan do."}}), flush=True)
        continue
    print(json.dumps({{"event": "progress", "text": "Drawing", "share": 0.5}}), flush=True)
    pathlib.Path(request["out"]).write_bytes(b"png")
    print(json.dumps({{"event": "done", "files": [request["out"]]}}), flush=True)
"""

Calls = Callable[[], list[str]]


@pytest.fixture
def drawer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Drawer, Calls]]:
    """A drawer whose `trainers.worker` is the script above."""
    calls = tmp_path / "calls.txt"
    package = tmp_path / "trainers"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "worker.py").write_text(_WORKER.format(calls=str(calls)))
    monkeypatch.setattr(ui.drawing, "_CHECKOUT", tmp_path)
    made = Drawer()
    yield made, lambda: calls.read_text().splitlines() if calls.exists() else []
    made.close()


def _ignore(_text: str, _share: float) -> None:
    pass


def test_a_picture_is_drawn_once(drawer: tuple[Drawer, Calls]) -> None:
    draw, calls = drawer
    told: list[tuple[str, float]] = []
    first = draw.draw(_DRAWING, lambda text, share: told.append((text, share)))
    assert first.read_bytes() == b"png" and ("Drawing", 0.5) in told
    assert draw.draw(_DRAWING, _ignore) == first
    assert draw.draw(replace(_DRAWING, seed=2), _ignore) != first
    assert len(calls()) == 2


def test_errors_are_one_sentence_and_the_process_lives_on(drawer: tuple[Drawer, Calls]) -> None:
    draw, _ = drawer
    draw.draw(_DRAWING, _ignore)
    process = draw._process
    with pytest.raises(InputError) as caught:
        draw.draw(replace(_DRAWING, prompt="refuse"), _ignore)
    assert str(caught.value) == "No [31mcan do."
    assert draw._process is process


@pytest.mark.parametrize("prompt", ["die", "babble"])
def test_a_process_that_dies_or_babbles_is_started_anew(
    drawer: tuple[Drawer, Calls], prompt: str
) -> None:
    draw, _ = drawer
    with pytest.raises(InputError, match="The drawing process ended"):
        draw.draw(replace(_DRAWING, prompt=prompt), _ignore)
    assert draw.draw(_DRAWING, _ignore).is_file()


def test_the_last_words_are_told(drawer: tuple[Drawer, Calls]) -> None:
    draw, _ = drawer
    with pytest.raises(InputError, match="the last words"):
        draw.draw(replace(_DRAWING, prompt="die"), _ignore)


def test_closing_ends_the_process_and_takes_the_pictures_along(
    drawer: tuple[Drawer, Calls],
) -> None:
    draw, _ = drawer
    out = draw.draw(_DRAWING, _ignore)
    process = draw._process
    assert process is not None
    draw.close()
    assert process.poll() == 0 and not out.exists()
    draw.close()


def test_the_command_is_a_list_and_never_a_shell(
    drawer: tuple[Drawer, Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, _ = drawer
    seen: list[object] = []
    real = ui.drawing.subprocess.Popen

    def spy(command: list[str], **options: object) -> object:
        seen.append((command, options.get("shell"), options.get("start_new_session")))
        return real(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(ui.drawing.subprocess, "Popen", spy)
    draw.draw(replace(_DRAWING, prompt="$(touch x); `y`"), _ignore)
    assert seen == [([sys.executable, "-m", "trainers.worker"], None, True)]
