"""Runs that are killed, that find no room on the disk, or that race for a folder.

`make soak` kills 200 at random moments and 200 inside saving.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from lora_diffusion.files import write_text
from tests.trainers.test_bit_exact import METHODS, settings
from trainers import checkpoint
from trainers.events import read_events
from trainers.jobs import RunDir
from trainers.layering import to_toml

if os.name != "posix":
    pytest.skip("forks, and kills with SIGKILL", allow_module_level=True)

from tests.trainers import killed

STEPS, INTERVAL = 7, 2
MEMORY_DISK = Path("/dev/shm")  # kills need no flush; the rest of the machine may be busy flushing


@dataclass(frozen=True)
class Whole:
    """A run that nothing cut short: its adapter's hash, and how long it took.

    Attributes:
        seconds: of the run, and of each write of a result.
    """

    root: Path
    spec: str
    adapter: str
    checkpoint_bytes: int
    seconds: float
    write_seconds: list[float]

    def prepare(self, name: str) -> RunDir:
        run = RunDir(self.root / name)
        write_text(run.spec_file, self.spec)
        return run


@pytest.fixture(scope="module")
def whole(world) -> Iterator[Whole]:
    spec = settings(world, STEPS, METHODS["adamw"])
    spec = spec.model_copy(
        update={
            "save": spec.save.model_copy(
                update={
                    "checkpoint_every_steps": INTERVAL,
                    "keep_checkpoints": 1,
                    "every_steps": 3,
                }
            )
        }
    )
    place = MEMORY_DISK if MEMORY_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as root:
        text = to_toml(spec)
        for name in ("warm", "whole"):
            run = RunDir(Path(root) / name)
            write_text(run.spec_file, text)
            process, pipe = killed.start(killed.train, run.path, False)
            began = time.monotonic()
            moments = [moment - began for _, moment in messages(pipe)]
            process.join()
            assert process.exitcode == 0
        size = checkpoint.files(run.checkpoints)[-1].stat().st_size
        writes = [after - before for before, after in zip(*[iter(moments)] * 2, strict=True)]
        yield Whole(Path(root), text, adapter_hash(run), size, moments[-1], writes)


def messages(pipe: Connection) -> Iterator[tuple[bytes, float]]:
    """What the process sends until it ends, each with the time at which it came."""
    while True:
        try:
            yield pipe.recv_bytes(), time.monotonic()
        except (EOFError, OSError):
            return


def adapter_hash(run: RunDir) -> str:
    """Of the bytes after the header, which holds times."""
    content = (run.path / "mine.safetensors").read_bytes()
    return hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def rests(run: RunDir) -> list[str]:
    return [path.name for path in run.path.rglob("*") if ".tmp" in path.name]


def kill_anywhere(process: Any, pipe: Connection, whole: Whole, chance: random.Random) -> bool:
    time.sleep(chance.uniform(0, whole.seconds))
    process.kill()
    return True


def kill_inside_saving(process: Any, pipe: Connection, whole: Whole, chance: random.Random) -> bool:
    """Whether the kill came before the write was over."""
    write = chance.randrange(len(whole.write_seconds))
    seen = messages(pipe)
    said = [next(seen)[0] for _ in range(2 * write + 1)]
    time.sleep(chance.uniform(0, whole.write_seconds[write]))
    process.kill()
    said += [word for word, _ in seen]
    return said[-1] == killed.IN


def check_kills(whole: Whole, kill: Any, count: int) -> None:
    chance = random.Random(count)
    hit = attempts = 0
    while hit < count:
        attempts += 1
        assert attempts <= 3 * count, "too few kills came inside a write"
        run = whole.prepare("killed")
        process, pipe = killed.start(killed.train, run.path, False)
        hit += kill(process, pipe, whole, chance)
        process.join()
        pipe.close()
        steps = [e.body["step"] for e in read_events(run.events_file)[0] if e.kind == "step"]
        newest = checkpoint.newest(run.checkpoints)
        lost = max(steps, default=0) - (newest.step if newest else 0)
        assert 0 <= lost <= INTERVAL
        process, pipe = killed.start(killed.train_told, run.path, True)
        said = pipe.recv()
        process.join()
        assert process.exitcode == 0, said
        assert adapter_hash(run) == whole.adapter
        assert rests(run) == []
        shutil.rmtree(run.path)


KILLS = [kill_anywhere, kill_inside_saving]


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_run_resumes_to_the_same_bytes(whole, kill):
    check_kills(whole, kill, 8)


@pytest.mark.soak
@pytest.mark.parametrize("kill", KILLS)
def test_200_killed_runs_resume_to_the_same_bytes(whole, kill):
    check_kills(whole, kill, 200)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_without_room_the_checkpoint_before_stays_and_the_message_says_what_to_do(whole, share):
    run = whole.prepare(f"full-{share}")
    room = max(20_000, int(share * whole.checkpoint_bytes))  # the event file still has room
    process, pipe = killed.start(killed.train_without_room, run.path, room)
    said = pipe.recv()
    process.join()
    assert process.exitcode == 2, said
    assert "Traceback" not in said
    [error] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "too large" in error or "larger than" in error
    assert error.endswith(f"--output_dir {run.path} --resume")
    assert read_events(run.events_file)[0][-1].body["defect"] is False
    assert rests(run) == []
    assert checkpoint.newest(run.checkpoints).step == INTERVAL
    process, pipe = killed.start(killed.train, run.path, True)
    process.join()
    assert adapter_hash(run) == whole.adapter


def test_of_ten_racing_launches_one_wins(whole):
    run = whole.prepare("raced")
    launched = [killed.start(killed.train_told, run.path, False) for _ in range(10)]
    said = [pipe.recv() for _, pipe in launched]
    for process, _ in launched:
        process.join()
    codes = [process.exitcode for process, _ in launched]
    assert sorted(codes) == [0] + [2] * 9, said
    for text in (text for text, code in zip(said, codes, strict=True) if code):
        assert text.count("\n") == 1
        assert "another run is working" in text or "holds a run already" in text
    assert adapter_hash(run) == whole.adapter
