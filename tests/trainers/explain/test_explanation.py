"""What a run's events mean, in words, and the command that changes it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_diffusion.errors import InputError
from lora_diffusion.files import write_text
from trainers.cli.main import main
from trainers.dreambooth_lora import parse
from trainers.events import EventLog
from trainers.explain import Explanation, explain
from trainers.jobs import RunDir
from trainers.layering import build_spec, to_toml
from trainers.validation import loss_map
from trainers.validation.history import History
from trainers.validation.loss_map import LossMap, Row

BASE = 0.1
SETTINGS: dict[str, Any] = {
    "data": {"folder": "bundled:demo_character", "trigger": "sks"},
    "optim": {"lr_unet": 1e-3, "lr_text": 1e-4},
    "schedule": {"steps": 400},
    "validation": {"every_steps": 100},
}


class Story:
    """Writes a run's folder as a run would."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.run = RunDir(folder)
        write_text(self.run.spec_file, to_toml(build_spec([SETTINGS, changes])))
        self.log = EventLog(self.run.events_file)
        self.history = History()

    def start(self, resumed_at: int = 0, class_pictures: int = 0) -> None:
        self.log.write(
            "started", total_steps=400, pictures=12, class_pictures=class_pictures,
            resumed_at=resumed_at,
        )  # fmt: skip

    def steps(self, first: int, last: int, loss: float | None = 0.1) -> None:
        for step in range(first, last + 1):
            self.log.write("step", step=step, loss=loss, lr=1e-3)

    def measure(
        self, step: int, share: float | None, trained: float, *, leak: float | None = None,
        of_class: float | None = None, rows: tuple[Row, ...] = (),
    ) -> None:  # fmt: skip
        point = None if share is None else self.history.add(step, BASE * share)
        file = self.run.validation / f"step-{step:08d}.json"
        loss_map.write(LossMap(step, (200, 700), rows), file)
        held_out = {} if share is None else {"loss": BASE * share, "base_loss": BASE}
        classes = {} if of_class is None else {"class_loss": of_class, "base_class_loss": 1.0}
        self.log.write(
            "validation", step=step, **held_out, **classes, train_loss=BASE * trained,
            base_train_loss=BASE, smooth=point.smooth if point else None,
            moved=0.2 if leak else None, leak=leak, file=f"validation/{file.name}",
        )  # fmt: skip

    def tell(self, shares: dict[int, tuple[float | None, float]], **last: Any) -> Explanation:
        self.start(class_pictures=last.pop("class_pictures", 0))
        self.steps(1, 400)
        for step, (share, trained) in shares.items():
            self.measure(step, share, trained, **(last if step == max(shares) else {}))
        return explain(self.run)


def changed(found: Explanation) -> dict[str, str]:
    """The settings that are to be changed, as the command line reads them."""
    if not found.command:
        assert not any(each.setting for each in found.advice)
        return {}
    words = shlex.split(found.command)
    run = parse(words[words.index("--config") :]).runs[0]
    assert not run.run_dir.path.exists()
    return {
        each.setting: str(getattr(getattr(run.spec, section), name))
        for each in found.advice
        if each.setting
        for section, _, name in [each.setting.partition(".")]
    }


def test_over_fit_names_the_step_and_the_shorter_run(tmp_path):
    story = Story(tmp_path / "run", adapter={"rank": 32})
    story.log.write("best", step=200, loss=1.0, file="exports/run-best.safetensors", reason="x")
    shares = {100: (0.8, 0.8), 200: (0.7, 0.6), 300: (0.75, 0.4), 400: (0.9, 0.3)}
    found = story.tell(shares)
    assert (found.fit, found.leaks) == ("over", None)
    assert "Over-fit since step 200" in found.headline
    assert changed(found) == {"schedule.steps": "200", "adapter.rank": "16"}
    story.log.write("best", step=200, loss=1.0, file="exports/run-best.safetensors", reason="x")
    texts = " ".join(each.text for each in explain(story.run).advice)
    assert "exports/run-best.safetensors" in texts


@pytest.mark.parametrize(
    ("shares", "fit", "settings"),
    [
        (
            {100: (0.95, 0.95), 200: (0.9, 0.9), 300: (0.8, 0.8), 400: (0.7, 0.7)},
            "under",
            {"schedule.steps": "600"},
        ),
        (
            {200: (0.99, 0.99), 400: (0.99, 0.98)},
            "under",
            {"optim.lr_unet": "0.003", "schedule.steps": "800"},
        ),
        ({200: (2.0, 1.8), 400: (3.0, 2.5)}, "diverged", {"optim.lr_unet": "0.0003"}),
        ({200: (1.0, 0.7), 400: (0.99, 0.5)}, "over", {"optim.lr_unet": "0.0005"}),
        ({100: (0.75, 0.7), 200: (0.71, 0.6), 400: (0.7, 0.55)}, "good", {}),
        (
            {100: (None, 0.75), 200: (None, 0.71), 400: (None, 0.7)},
            "unknown",
            {"validation.hold_out": "1"},
        ),
        ({200: (None, 0.9), 400: (None, 0.7)}, "under", {"schedule.steps": "600"}),
    ],
)
def test_the_fit_follows_from_the_losses(tmp_path, shares, fit, settings):
    found = Story(tmp_path / "run").tell(shares)
    assert found.fit == fit
    assert changed(found) == settings


GOOD: dict[int, tuple[float | None, float]] = {100: (0.75, 0.7), 200: (0.71, 0.6), 400: (0.7, 0.5)}


def test_a_leak_without_class_pictures_asks_for_them(tmp_path):
    found = Story(tmp_path / "run").tell(GOOD, leak=0.8)
    assert found.leaks
    assert any("80% as far" in sentence for sentence in found.says)
    assert "--data.class_pictures 36 --data.class_prompts" in found.advice[0].text
    assert changed(found) == {"optim.lr_text": "5e-05"}


def test_a_leak_with_class_pictures_weighs_them_more(tmp_path):
    data = {"class_pictures": 9, "class_prompts": ["a dog"]}
    story = Story(tmp_path / "run", data=data, optim={"lr_text": 0.0})
    found = story.tell(GOOD, leak=0.8, class_pictures=9, of_class=1.2)
    assert changed(found) == {"objective.prior_weight": "2.0"}
    assert any("forgets its class" in sentence for sentence in found.says)


def test_a_run_that_keeps_to_its_trigger_is_left_alone(tmp_path):
    found = Story(tmp_path / "run").tell(GOOD, leak=0.2, class_pictures=9, of_class=0.9)
    assert (found.leaks, found.advice, found.command) == (False, (), "")


def row(name: str, sort: str, loss: float, other: float = 0.2) -> Row:
    return Row(name, sort, f"a {name}", (BASE, BASE), (loss, loss), (other, other), (0.3, 0.3))


def test_pictures_that_stand_out_are_named(tmp_path):
    rows = (
        *(row(f"{n}.png", "trained", 0.05 + 0.001 * n) for n in range(6)),
        row("swapped.png", "trained", 0.03, other=0.05),
        row("odd.png", "trained", 0.095),
        row("known.png", "trained", 0.01),
        row("new.png", "held_out", 0.07),
    )
    found = Story(tmp_path / "run").tell(GOOD, rows=rows)
    named = {(each.picture, each.kind) for each in found.pictures}
    assert named == {
        ("swapped.png", "caption"), ("odd.png", "stays-high"), ("known.png", "memorised"),
    }  # fmt: skip
    assert "fits no better" in found.pictures[0].text
    assert any("1 caption:" in each.text for each in found.advice)


def test_a_set_that_is_memorised_is_told_of_as_a_whole(tmp_path):
    rows = (
        *(row(f"{n}.png", "trained", 0.01) for n in range(12)),
        row("new.png", "held_out", 0.09),
    )
    found = Story(tmp_path / "run").tell(GOOD, rows=rows)
    assert not found.pictures
    assert any("12 of the trained pictures" in sentence for sentence in found.says)


def test_without_measurements_it_says_how_to_get_them(tmp_path):
    story = Story(tmp_path / "run", validation={"every_steps": 0})
    story.start()
    story.steps(1, 200, 0.4)
    story.steps(201, 400, 0.2)
    found = explain(story.run)
    assert found.fit == "unknown"
    assert "0.4 to 0.2" in found.says[0]
    assert changed(found) == {"validation.every_steps": "40"}


def test_steps_that_were_left_out_ask_for_a_lower_rate(tmp_path):
    story = Story(tmp_path / "run")
    story.start()
    story.steps(1, 5, None)
    found = explain(story.run)
    assert found.says[0].startswith("5 of 5 steps were left out")
    assert changed(found)["optim.lr_unet"] == "0.00033"


def test_what_a_resumed_run_did_again_counts_once(tmp_path):
    story = Story(tmp_path / "run")
    story.start()
    story.steps(1, 300)
    story.measure(100, 0.75, 0.7)
    story.measure(300, 5.0, 5.0)
    story.start(resumed_at=100)
    story.history = History.of([(100, 0.075)])
    story.steps(101, 400)
    story.measure(200, 0.71, 0.6)
    story.measure(400, 0.7, 0.5)
    found = explain(story.run)
    assert (found.fit, found.step, found.total_steps) == ("good", 400, 400)


def test_early_ends_failures_and_warnings_are_told(tmp_path):
    story = Story(tmp_path / "run")
    story.log.write("doctor", counts={"warning": 3})
    story.tell(GOOD)
    story.log.write("finished", step=400, stopped_early="It was enough.")
    says = " ".join(explain(story.run).says)
    assert "It ended early. It was enough." in says
    assert "3 things" in says
    story.log.write("failed", text="The disk is full.", defect=False)
    assert "The run failed: The disk is full." in explain(story.run).says


def test_runs_that_tell_nothing_yet(tmp_path):
    assert "nothing to explain" in explain(Story(tmp_path / "run").run).headline
    with pytest.raises(InputError, match=r"no run folder, it has no spec\.toml"):
        explain(RunDir(tmp_path / "none"))


def test_a_map_outside_of_the_run_or_damaged_is_passed_over(tmp_path):
    story = Story(tmp_path / "run")
    story.tell(GOOD)
    for file in ("../../secret.json", "validation/gone.json"):
        story.log.write("validation", step=500, train_loss=0.1, base_train_loss=0.2, file=file)
        assert explain(story.run).pictures == ()
    (story.run.validation / "bad.json").write_text('{"step": 1, "timesteps": [1], "rows": [{}]}')
    story.log.write("validation", step=600, file="validation/bad.json")
    assert explain(story.run).pictures == ()


def test_the_command_prints_words_or_json_without_torch(tmp_path, capsys):
    story = Story(tmp_path / "run")
    story.tell({200: (0.99, 0.99), 400: (0.99, 0.98)})
    assert main(["explain", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "Under-fit" in out
    assert "--optim.lr_unet 0.003 (was 0.001)" in out
    assert main(["explain", str(tmp_path / "run"), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["fit"], body["status"]) == ("under", "interrupted")
    assert body["advice"][0]["setting"] == "optim.lr_unet"
    assert main(["explain", str(tmp_path)]) == 2
    code = "import sys, trainers.explain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
