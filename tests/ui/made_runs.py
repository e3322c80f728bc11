"""Run folders as a trainer leaves them, made in milliseconds for the studio's tests."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from safetensors.numpy import save_file

from trainers import jobs
from trainers.events import EventLog
from trainers.jobs import RunDir
from trainers.layering import build_spec
from trainers.queue import Queue

PROMPTS = ("a sks creature on a blue background", "a creature on a blue background")
_COLOURS = ("#2563eb", "#f5d33c", "#2fa84f", "#e05252")


def picture(path: Path, share: float, colour: str) -> None:
    """A small face whose features come out of the fog as `share` goes to 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (64, 64), colour)
    draw = ImageDraw.Draw(image)
    draw.ellipse((16, 14, 48, 56), fill="#00a3a3")
    draw.ellipse((20, 22, 34, 36), fill="white")
    draw.ellipse((30, 22, 44, 36), fill="white")
    draw.ellipse((26, 27, 31, 32), fill="#1b1426")
    draw.ellipse((34, 27, 39, 32), fill="#1b1426")
    clean = np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 70 * (1 - share), clean.shape)
    Image.fromarray(np.clip(clean + noise, 0, 255).astype(np.uint8)).save(path)


def make_run(
    runs: Path,
    name: str,
    *,
    steps: int = 300,
    reached: int | None = None,
    every: int = 50,
    outcome: str | None = "finished",
    failure: str = "The graphics card ran out of memory. Lower data.resolution_px.",
    alive: bool = False,
    paused: bool = False,
    validated: bool = False,
    exported: bool = False,
    prompts: tuple[str, ...] = PROMPTS,
    resumed_at: int = 0,
    rank: int = 8,
) -> RunDir:
    """A run that got to step `reached`; without an outcome it is running or was interrupted."""
    reached = steps if reached is None else reached
    spec = build_spec(
        [
            {
                "schedule": {"steps": steps},
                "preview": {"prompts": list(prompts), "every_steps": every, "cfg": 2.0},
                "data": {"trigger": "sks", "resolution_px": 64},
                "adapter": {"rank": rank},
            }
        ]
    )
    run = jobs.prepare(runs, name, spec)
    log = EventLog(run.events_file)
    log.write(
        "started", total_steps=steps, pictures=14, class_pictures=24, trainable=1000,
        base="demo_base", arch="sd15", resumed_at=resumed_at,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    preview(log, run, 0, steps, prompts)
    for step in range(1, reached + 1):
        loss = 0.08 + 0.2 * math.exp(-step / (steps / 5)) + abs(rng.normal(0, 0.04))
        log.write(
            "step", step=step, loss=loss, lr=1e-3 * (1 - step / (steps + 1)), grad_norm=0.5,
            seconds=0.3, peak_bytes=1_500_000_000,
        )  # fmt: skip
        if step % every == 0:
            preview(log, run, step, steps, prompts)
            log.write("checkpoint", step=step, file=f"checkpoints/{step}.safetensors")
        if exported and step % every == 0:
            export = run.exports / f"{name}-step{step:08d}.safetensors"
            export.parent.mkdir(exist_ok=True)
            save_file({"a": np.zeros((2, 2), np.float32)}, export)
            log.write("export", step=step, file=f"exports/{export.name}", final=False)
        if validated and step % max(1, steps // 10) == 0:
            off = 0.03 * abs(step / steps - 0.7)
            log.write("validation", step=step, loss=0.1 + 0.1 * math.exp(-step / steps * 5) + off)
    run.log_file.write_text("Training on cpu, 2 threads\nstep 1\n", encoding="utf-8")
    if outcome == "finished":
        save_file({"a": np.zeros((2, 2), np.float32)}, run.adapter_file(spec))
        log.write("finished", step=reached, file=run.adapter_file(spec).name, seconds=87.0)
    elif outcome == "stopped":
        log.write("stopped", step=reached, signal="SIGTERM", checkpoint=f"checkpoints/{reached}")
    elif outcome == "failed":
        log.write("failed", text=failure, defect=False)
    if paused:
        log.write("paused", step=reached, checkpoint=f"{reached}.safetensors")
    log.close()
    age_pace(run)
    if alive:
        jobs.record_process(run, os.getpid())
    else:
        run.process_file.write_text(
            json.dumps({"pid": 1, "created": 1.0, "command": "trainers.dreambooth_lora"})
        )
    return run


def preview(log: EventLog, run: RunDir, step: int, steps: int, prompts: tuple[str, ...]) -> None:
    """Draw and report the previews of one step."""
    pictures = []
    for number, prompt in enumerate(prompts):
        file = f"previews/{step:06d}-{number}.png"
        picture(run.path / file, step / steps, _COLOURS[number % len(_COLOURS)])
        pictures.append({"prompt": prompt, "file": file})
    log.write("preview", step=step, pictures=pictures)


def age_pace(run: RunDir) -> None:
    """Spread the events over the time that their steps claim to have taken."""
    lines = [json.loads(line) for line in run.events_file.read_text().splitlines()]
    start = time.time() - 0.3 * len(lines)
    for number, line in enumerate(lines):
        line["at"] = round(start + 0.3 * number, 3)
    run.events_file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def every_state(runs: Path, steps: int = 20, every: int = 10) -> None:
    """Runs that finished, failed, were stopped or interrupted, are paused, and that is running."""
    reached = steps * 3 // 5
    length = {"steps": steps, "every": every}
    make_run(runs, "finished", **length, validated=True, exported=True)
    make_run(runs, "failed", **length, reached=reached, outcome="failed")
    make_run(runs, "stopped", **length, reached=reached, outcome="stopped")
    make_run(runs, "interrupted", **length, reached=reached, outcome=None)
    make_run(runs, "paused", **length, reached=reached, outcome=None, alive=True, paused=True)
    make_run(runs, "running", **length, reached=reached, outcome=None, alive=True, validated=True)


def make_sweep(runs: Path, name: str, ranks: tuple[int, ...], *, alive: bool = False) -> None:
    """A sweep over ranks, finished or all in this process."""
    folder = runs / name
    outcome = None if alive else "finished"
    reached = 12 if alive else 20
    listed = []
    for rank in ranks:
        member = f"rank-{rank}"
        make_run(
            folder, member, steps=20, every=10, reached=reached, outcome=outcome, alive=alive,
            exported=True, rank=rank,
        )  # fmt: skip
        settings = {"adapter.rank": rank}
        listed.append({"name": member, "folder": member, "settings": settings})
    (folder / jobs.SWEEP_FILE).write_text(json.dumps({"runs": listed}), encoding="utf-8")


def make_waiting(runs: Path, *names: str) -> None:
    """Prepared runs in line."""
    queue = Queue(runs)
    for name in names:
        queue.add(jobs.prepare(runs, name, build_spec([])))
