"""A true-size SD1.5 with random weights goes through the same command. Minutes and gigabytes."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.make_random_sd15 import write_folder
from lora_diffusion import load
from trainers.events import read_events

SIDE_PX = 256
MAX_PEAK_GB = 12.0


@pytest.mark.big
def test_two_steps_at_256_px(tmp_path, train):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, colour in enumerate(("red", "green")):
        Image.new("RGB", (400, 300), colour).save(pictures / f"{number}.png")
    write_folder(tmp_path / "base")
    done = train(
        "--preset", "sd15-character", "--model.base", tmp_path / "base",
        "--data.folder", pictures, "--data.trigger", "sks", "--data.resolution_px", SIDE_PX,
        "--adapter.targets", "attn", "--adapter.text_targets", "none", "--adapter.rank", 4,
        "--schedule.steps", 2, "--schedule.batch_size", 1, "--preview.enabled", "false",
        "--model.gradient_checkpointing", "true", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    events, _ = read_events(tmp_path / "run" / "events.jsonl")
    started = next(e.body for e in events if e.kind == "started")
    steps = [e.body for e in events if e.kind == "step"]
    assert started["trainable"] == 797_184
    assert len(steps) == 2
    peak_gb = max(step["peak_bytes"] for step in steps) / 1e9
    children_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    print(f"peak memory of the process: {peak_gb:.2f} GB ({children_gb:.2f} GB by its parent)")
    assert peak_gb < MAX_PEAK_GB
    adapter = load(tmp_path / "run" / "run.safetensors")
    assert adapter.modules_by_part() == {"unet": 128}
    assert "finished" in [e.kind for e in events]
    assert done.stdout.count("adapter:") == 1
    shutil.rmtree(Path(tmp_path / "base"))
