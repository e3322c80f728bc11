"""What the sheets run: verbs of the command, with nothing of the page but checked values."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.ui.made_runs import make_run
from ui.compose import tab
from ui.context import Context
from ui.tasks import Task, Tasks

Ask = Callable[..., dict[str, Any]]
_MIX: dict[str, Any] = {
    "base": "bundled:demo_base", "prompt": "a fox", "negative": "", "seed": "7", "steps": "4",
    "cfg": "2", "size": "64",
    "chosen": [
        {"id": "run/fox", "weight": 0.8, "parts": {}, "blocks": {"mid": 0}},
        {"id": "run/ink", "weight": -0.5, "parts": {"text": 0.5}, "blocks": {}},
    ],
}  # fmt: skip


class Done(Tasks):
    """Notes the verb and is done at once."""

    def __init__(self) -> None:
        super().__init__()
        self.verbs: list[list[str]] = []
        self.result: dict[str, Any] = {}

    def start(self, title: str, words: Sequence[str]) -> Task:
        self.verbs.append(list(words))
        task = Task(f"t{len(self.verbs)}", title, state="done", result=self.result)
        self._tasks[task.id] = task
        if "--out" in words and words[0] == "merge":
            Path(words[words.index("--out") + 1]).write_bytes(b"folded")
        return task


@pytest.fixture
def tasks() -> Done:
    return Done()


@pytest.fixture
def studio(context: Context, tasks: Done) -> Context:
    """A studio with two finished runs."""
    for name in ("fox", "ink"):
        make_run(context.runs, name, steps=4, every=2)
    return replace(context, tasks=tasks)


@pytest.fixture
def ask(studio: Context) -> Ask:
    functions = {f.__name__: f for f in tab.server_functions(studio)}
    return lambda question, **request: functions[question](request)


def test_fold_verify_and_keep(ask: Ask, tasks: Done, studio: Context) -> None:
    tasks.result = {
        "layers": [{"key": "a", "error": 0.1}, {"key": "b\x1b", "error": 0.3}], "max_error": 0.3
    }  # fmt: skip
    task = ask("compose_fold", **_MIX, name=" fox + ink ", method="svd", rank="16")["task"]
    verb = tasks.verbs[0]
    fox, ink = (studio.runs / name / f"{name}.safetensors" for name in ("fox", "ink"))
    assert verb[:3] == ["merge", f"{fox}:0.8,mid=0", f"{ink}:-0.5,text=0.5"]
    assert verb[verb.index("--method") :][:4] == ["--method", "svd", "--rank", "16"]
    told = ask("compose_task", task=task)["result"]
    assert told["name"] == "fox + ink.safetensors" and told["max_error"] == 0.3
    assert [one["key"] for one in told["worst"]] == ["b", "a"]
    assert told["url"].startswith("/studio/adapter/")

    ask("compose_verify", task=task, base="bundled:demo_base")
    out = verb[verb.index("--out") + 1]
    assert tasks.verbs[1] == ["verify", out, "--base", "bundled:demo_base", "--json"]
    assert [ask("compose_keep", task=task)["name"] for _ in range(2)] == [
        "fox + ink.safetensors", "fox + ink-2.safetensors"
    ]  # fmt: skip
    assert (studio.adapters / "fox + ink.safetensors").read_bytes() == b"folded"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../etc"},
        {"name": "-rf"},
        {"name": ""},
        {"method": "magic"},
        {"rank": "0", "method": "svd"},
        {"chosen": []},
    ],
)
def test_what_can_not_be_folded(ask: Ask, tasks: Done, change: dict[str, Any]) -> None:
    asked = {**_MIX, "name": "mix", "method": "exact", "rank": "8", **change}
    assert set(ask("compose_fold", **asked)) == {"error"}
    assert not tasks.verbs


def test_the_grid_takes_values_one_by_one(ask: Ask, tasks: Done) -> None:
    axes = {"x_kind": "weight/run/ink", "x_values": "0, 0.5,1", "y_kind": "prompt"}
    assert "task" in ask("compose_grid", **_MIX, **axes, y_values="a fox, red | a cat")
    verb = tasks.verbs[0]
    assert verb[verb.index("--x") :][:5] == ["--x", "weight.ink", "0", "0.5", "1"]
    assert verb[verb.index("--y") :][:3] == ["--y", "prompt", "a fox, red"]
    for wrong in ({"y_values": " | "}, {"y_values": "--out|x"}, {"x_kind": "adapter"}):
        assert set(ask("compose_grid", **_MIX, **{**axes, "y_values": "a", **wrong})) == {"error"}


def test_interference_tells_pairs_without_layers(ask: Ask, tasks: Done) -> None:
    block = {"block": "mid", "overlap": 0.5, "chance": 0.1, "interference": 1.0}
    tasks.result = {
        "pairs": [
            {"first": "a", "second": "b", "overlap": 0.5, "chance": 0.1, "layers": [1] * 99,
             "blocks": [block], "advice": ["Turn mid down."]}
        ]
    }  # fmt: skip
    told = ask("compose_task", task=ask("compose_interference", **_MIX)["task"])
    assert told["result"]["pairs"][0]["blocks"] == [block]
    assert "layers" not in told["result"]["pairs"][0]
    assert json.dumps(told)
    one = {**_MIX, "chosen": _MIX["chosen"][:1]}
    assert set(ask("compose_interference", **one)) == {"error"}


def test_the_demo_adapters_come_with_pictures_and_fit_the_demo_base(ask: Ask) -> None:
    assert ask("compose_demo") == {} and ask("compose_demo") == {}
    offered = ask("compose_offer", base="bundled:demo_base")["cards"]
    demo = {card["id"]: card for card in offered if card["id"].startswith("file/")}
    assert set(demo) == {
        f"file/demo-{name}.safetensors" for name in ("character", "second", "style")
    }
    for card in demo.values():
        assert not card["problem"] and card["thumbnail"] and card["trigger"]
        assert card["trigger"].split(",")[0] in card["prompts"][0]
