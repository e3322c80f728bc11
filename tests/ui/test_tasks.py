"""Verbs in processes of their own, against a stand-in for the command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ui.tasks
from lora_diffusion.errors import InputError
from ui.tasks import Task, Tasks

_COMMAND = """
import json, sys, time
words = sys.argv[1:]
if words[0] == "work":
    print("layer 3 of 12", file=sys.stderr, flush=True)
    print(json.dumps({"words": words}))
if words[0] == "refuse":
    print("Reading", file=sys.stderr)
    print("error: a.safetensors: \\x1b[31mis no adapter.", file=sys.stderr)
    sys.exit(2)
if words[0] == "break":
    sys.exit("Traceback: boom")
if words[0] == "sleep":
    print("asleep", file=sys.stderr, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tasks]:
    """Tasks whose `trainers.cli` is the script above."""
    package = tmp_path / "trainers"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "cli.py").write_text(_COMMAND)
    monkeypatch.setattr(ui.tasks, "_CHECKOUT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = Tasks()
    yield made
    made.close()


def _ended(task: Task) -> Task:
    until = time.monotonic() + 30
    while task.state == "running" and time.monotonic() < until:
        time.sleep(0.01)
    return task


def test_a_verb_tells_its_progress_and_its_result(tasks: Tasks) -> None:
    task = _ended(tasks.start("Work", ["work", "--json", "; rm -rf /"]))
    assert (task.state, task.text) == ("done", "layer 3 of 12")
    assert task.result == {"words": ["work", "--json", "; rm -rf /"]}
    assert tasks.get(task.id) is task


def test_a_refusal_is_its_own_sentence_without_control_characters(tasks: Tasks) -> None:
    task = _ended(tasks.start("Refuse", ["refuse"]))
    assert task.state == "failed"
    assert task.error.startswith("a.safetensors: ") and "\x1b" not in task.error


def test_a_defect_says_so(tasks: Tasks) -> None:
    task = _ended(tasks.start("Break", ["break"]))
    assert task.state == "failed" and "our own defect" in task.error and "boom" in task.error


def test_cancel_ends_the_process(tasks: Tasks) -> None:
    task = tasks.start("Sleep", ["sleep"])
    until = time.monotonic() + 30
    while task.text != "asleep" and time.monotonic() < until:
        time.sleep(0.01)
    process = tasks._processes[task.id]
    tasks.cancel(task.id)
    process.wait(10)
    assert task.state == "cancelled"


def test_an_unknown_task_is_gone(tasks: Tasks) -> None:
    for name in ("x", None, ["x"]):
        with pytest.raises(InputError, match="gone"):
            tasks.get(name)
