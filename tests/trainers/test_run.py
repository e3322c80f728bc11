"""Whole runs of the real command: outputs, resume bit for bit, stopping, refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_diffusion import load
from tests.trainers.conftest import FAST, assert_same_tensors, command, environment, tensors
from trainers.events import read_events

STEPS = 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run of STEPS steps, never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = subprocess.run(
        command(
            *FAST,
            "--output_dir",
            folder,
            "--schedule.steps",
            STEPS,
            "--save.every_steps",
            2,
            "--save.name",
            "mine",
            "--save.dtype",
            "fp32",
            "--save.checkpoint_every_steps",
            1,
            "--save.keep_checkpoints",
            100,
            "--preview.every_steps",
            3,
        ),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_leaves_what_the_commands_page_says(whole):
    folder, done = whole
    assert [p.name for p in folder.glob("*.safetensors")] == ["mine.safetensors"]
    assert sorted(p.name for p in (folder / "exports").iterdir()) == [
        "mine-step00000002.safetensors",
        "mine-step00000004.safetensors",
    ]
    assert {p.name for p in folder.iterdir()} >= {
        "spec.toml", "process.json", "events.jsonl", "contact_sheet.png", "checkpoints", "previews",
    }  # fmt: skip
    assert str(folder / "mine.safetensors") in done.stdout
    assert "Traceback" not in done.stderr
    assert done.stderr.count("mine.safetensors is not portable: only diffusers") == 1
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.width > 600


def test_events_tell_the_whole_run(whole):
    folder, _ = whole
    events, _ = read_events(folder / "events.jsonl")
    kinds = [e.kind for e in events]
    assert kinds[-1] == "finished"
    exports = [e.body for e in events if e.kind == "export"]
    assert [e["final"] for e in exports] == [False, False, True]
    for export in exports:  # InvokeAI knows bases by their true width, which the demo has not
        assert not export["portable"]
        assert export["readers"] == ["diffusers", "a1111-forge", "comfyui", "sd-scripts"]
        assert "cannot tell the base" in export["unread"]["invokeai"]
    assert [e.body["step"] for e in events if e.kind == "step"] == list(range(1, STEPS + 1))
    assert [e.body["step"] for e in events if e.kind == "preview"] == [0, 3, STEPS]
    assert all(e.body["loss"] > 0 and e.body["grad_norm"] > 0 for e in events if e.kind == "step")
    started = next(e.body for e in events if e.kind == "started")
    assert (started["pictures"], started["class_pictures"], started["total_steps"]) == (
        14,
        2,
        STEPS,
    )
    for event in events:
        if event.kind == "preview":
            for picture in event.body["pictures"]:
                with Image.open(folder / picture["file"]) as image:
                    assert image.size == (64, 64)
                    assert picture["prompt"] in image.text["parameters"]


def test_the_adapter_was_trained_and_says_how(whole):
    folder, _ = whole
    adapter = load(folder / "mine.safetensors")
    assert set(adapter.modules_by_part()) == {"unet", "text_encoder"}
    assert all(f.up.abs().max() > 0 for f in adapter.layers.values())
    facts = adapter.metadata
    assert json.loads(facts["ss_datasets"])[0]["subsets"][0]["class_tokens"] == "sks"
    assert facts["ss_output_name"] == "mine"
    assert facts["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert len(facts["ss_new_sd_model_hash"]) == 64
    assert str(folder) not in json.dumps(dict(facts))


@pytest.mark.parametrize("step", range(1, STEPS))
def test_resuming_from_any_step_gives_the_same_bits(whole, tmp_path, train, step):
    folder, _ = whole
    again = tmp_path / "run"
    (again / "checkpoints").mkdir(parents=True)
    name = f"step-{step:08d}.safetensors"
    (again / "checkpoints" / name).write_bytes((folder / "checkpoints" / name).read_bytes())
    (again / "spec.toml").write_bytes((folder / "spec.toml").read_bytes())
    done = train("--output_dir", again, "--resume", "--preview.enabled", "false")
    assert_same_tensors(folder / "mine.safetensors", again / "mine.safetensors")
    assert f"{STEPS - step} of {STEPS} steps to go" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [1, 4])
def test_stopping_saves_and_resuming_ends_in_the_same_bits(whole, tmp_path, train, number, after):
    reference, _ = whole
    folder = tmp_path / "run"
    options = [
        *FAST, "--output_dir", folder, "--schedule.steps", STEPS, "--save.name", "mine",
        "--save.dtype", "fp32", "--save.checkpoint_every_steps", 0, "--preview.enabled", "false",
    ]  # fmt: skip
    process = subprocess.Popen(
        command(*options), env=environment(), stderr=subprocess.PIPE, text=True
    )
    events_file = folder / "events.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        steps = [e for e in read_events(events_file)[0] if e.kind == "step"]
        if len(steps) >= after:
            break
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    last = read_events(events_file)[0][-1]
    if last.kind == "finished":
        pytest.fail("the run was over before the signal came; use more steps")
    assert process.returncode == 128 + number, errors
    assert last.kind == "stopped"
    assert last.body["step"] >= after
    assert not (folder / "mine.safetensors").exists()
    train(*options, "--resume")
    assert_same_tensors(reference / "mine.safetensors", folder / "mine.safetensors")


def test_a_signal_while_the_libraries_load_is_not_lost(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(*FAST, "--output_dir", folder), env=environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not listens_to_sigterm(process.pid):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    last = read_events(folder / "events.jsonl")[0][-1]
    assert (last.kind, last.body["step"]) == ("stopped", 0)


def listens_to_sigterm(pid: int) -> bool:
    """Whether the process has a handler of its own (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_changed_settings_are_refused_unless_forked(whole, tmp_path, train):
    folder, _ = whole
    again = tmp_path / "run"
    (again / "checkpoints").mkdir(parents=True)
    name = "step-00000003.safetensors"
    (again / "checkpoints" / name).write_bytes((folder / "checkpoints" / name).read_bytes())
    (again / "spec.toml").write_bytes((folder / "spec.toml").read_bytes())
    changed = ("--output_dir", again, "--resume", "--optim.lr_unet", "1e-5",
               "--preview.enabled", "false")  # fmt: skip
    refused = train(*changed, check=2)
    assert "optim.lr_unet" in refused.stderr
    assert "--fork" in refused.stderr
    assert "Traceback" not in refused.stderr
    train(*changed, "--fork")
    one, other = (tensors(f / "mine.safetensors") for f in (folder, again))
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_a_folder_that_holds_a_run_is_not_overwritten(whole, train):
    folder, _ = whole
    before = (folder / "mine.safetensors").read_bytes()
    refused = train(*FAST, "--output_dir", folder, check=2)
    assert "--resume" in refused.stderr
    assert (folder / "mine.safetensors").read_bytes() == before


def test_a_start_that_failed_does_not_block_the_next(tmp_path, train):
    options = [*FAST, "--output_dir", tmp_path / "run", "--schedule.steps", 1]
    train(*options, "--data.folder", tmp_path / "typo", check=2)
    train(*options, "--preview.enabled", "false")
    events, _ = read_events(tmp_path / "run" / "events.jsonl")
    assert [e.kind for e in events if e.kind in ("failed", "finished")] == ["finished"]


def test_resume_without_a_checkpoint_says_so_and_starts(tmp_path, train):
    done = train(
        *FAST,
        "--output_dir",
        tmp_path / "run",
        "--schedule.steps",
        1,
        "--resume",
        "--preview.enabled",
        "false",
    )
    assert "no checkpoint" in done.stderr
    assert (tmp_path / "run" / "run.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.device", "cuda:7"], ["model.device", "cuda:7"]),
        (["--adapter.targets", "*.nothing"], ["*.nothing"]),
        (["--data.trigger", "sks", "--model.clip_skip", "4"], ["clip_skip"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(tmp_path, train, options, words):
    if torch.cuda.is_available() and "--model.device" in options:
        pytest.skip("this machine has GPUs")
    done = train(*FAST, "--output_dir", tmp_path / "run", *options, check=2)
    assert "Traceback" not in done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    for word in words:
        assert word in error[0]
    if "--model.device" in options:  # seen before anything begins: test_mistakes has more of these
        assert not (tmp_path / "run").exists()
    else:
        last = read_events(tmp_path / "run" / "events.jsonl")[0][-1]
        assert (last.kind, last.body["defect"]) == ("failed", False)


def test_a_damaged_picture_is_named_and_nothing_is_trained(tmp_path, train):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (80, 60), "red").save(pictures / "good.png")
    (pictures / "bad one.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (pictures / "worse.jpg").write_bytes(b"")
    done = train(*FAST, "--data.folder", pictures, "--output_dir", tmp_path / "run", check=2)
    assert "bad one.png" in done.stderr
    assert "worse.jpg" in done.stderr
    assert "Traceback" not in done.stderr


def test_lengths_and_exports_in_epochs(tmp_path, train):
    folder = tmp_path / "run"
    train(
        *FAST, "--output_dir", folder, "--schedule.epochs", 3, "--save.every_epochs", 1,
        "--data.class_pictures", 0, "--schedule.batch_size", 7, "--preview.enabled", "false",
    )  # fmt: skip
    steps = [e for e in read_events(folder / "events.jsonl")[0] if e.kind == "step"]
    assert len(steps) == 6  # 14 pictures, 7 a step, 3 times
    assert sorted(p.name for p in (folder / "exports").iterdir()) == [
        "run-step00000002.safetensors",
        "run-step00000004.safetensors",
    ]


def test_plan_prints_and_stops(train, tmp_path):
    done = train("--preset", "demo-character", "--output_dir", tmp_path / "run", "--plan")
    assert "14" in done.stdout
    assert not (tmp_path / "run").exists()
