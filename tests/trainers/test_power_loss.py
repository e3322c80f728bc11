"""The power fails: a run's own flushes, renames and removals, replayed up to any of them.

What was not flushed may be there, in part, as zeros, or not at all; of the changes to a folder that
was not flushed any may have happened. From each such state the run goes on from a checkpoint that
was whole before. `make soak` builds 600 states.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.test_bit_exact import METHODS, settings
from trainers import checkpoint, resume
from trainers.events import EventLog, read_events
from trainers.jobs import RunDir
from trainers.run import run
from trainers.spec import JobSpec
from trainers.stopping import StopSignal

if sys.platform != "linux":
    pytest.skip("finds out by /proc which file is flushed", allow_module_level=True)

STEPS = 5
PAGE = 4096


@dataclass(frozen=True, eq=False)
class File:
    """A file's content, wherever it is called what."""

    content: bytes


@dataclass(frozen=True)
class Change:
    """Of a folder's entries: `new` is now `file`, `old` is gone; None where there is no such."""

    old: Path | None
    new: Path | None
    file: File | None

    @property
    def folder(self) -> Path:
        path = self.new or self.old
        assert path is not None
        return path.parent

    def apply(self, entries: dict[Path, File | None]) -> None:
        if self.old is not None:
            entries.pop(self.old, None)
        if self.new is not None:
            entries[self.new] = self.file


@dataclass
class Recorder:
    """What the system was asked, in order: a `Change`, or a file or a folder that was flushed."""

    root: Path
    told: list[Change | File | Path] = field(default_factory=list)
    _files: dict[Path, File] = field(default_factory=dict)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fsync, replace, unlink, mkdir = os.fsync, os.replace, os.unlink, os.mkdir

        def recorded_fsync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if self._is_ours(path):
                self._flushed(path, stat.S_ISDIR(os.fstat(descriptor).st_mode))
            fsync(descriptor)

        def recorded_replace(old: Any, new: Any, **options: Any) -> None:
            replace(old, new, **options)
            if self._is_ours(new):
                self._files[Path(new)] = self._files.pop(Path(old))
                self.told.append(Change(Path(old), Path(new), self._files[Path(new)]))

        def recorded_unlink(path: Any, **options: Any) -> None:
            unlink(path, **options)
            if self._files.pop(Path(path), None):
                self.told.append(Change(Path(path), None, None))

        def recorded_mkdir(path: Any, *mode: Any, **options: Any) -> None:
            mkdir(path, *mode, **options)
            if self._is_ours(path):
                self.told.append(Change(None, Path(path), None))

        for name, call in (
            ("fsync", recorded_fsync), ("replace", recorded_replace), ("unlink", recorded_unlink),
            ("mkdir", recorded_mkdir),
        ):  # fmt: skip
            monkeypatch.setattr(os, name, call)

    def _is_ours(self, path: Any) -> bool:
        return Path(path).is_relative_to(self.root) and Path(path).name != "events.jsonl"

    def _flushed(self, path: Path, is_folder: bool) -> None:
        if is_folder:
            self.told.append(path)
            return
        self._files[path] = File(path.read_bytes())
        self.told += [Change(None, path, self._files[path]), self._files[path]]


@dataclass(frozen=True)
class Recording:
    """One run's requests; `saved` is after how many of them which step's checkpoint is safe."""

    root: Path
    told: list[Change | File | Path]
    spec: JobSpec
    events: bytes
    checkpoints: dict[str, bytes]
    saved: list[tuple[int, int]]
    adapter: bytes

    def crash(self, count: int, chance: random.Random) -> dict[Path, bytes | None]:
        """What may be on disk when the power fails after `count` requests; folders are None."""
        durable: dict[Path, File | None] = {self.root: None}
        waiting: list[Change] = []
        flushed: set[File] = set()
        for each in self.told[:count]:
            if isinstance(each, Change):
                waiting.append(each)
            elif isinstance(each, File):
                flushed.add(each)
            else:
                for change in [change for change in waiting if change.folder == each]:
                    waiting.remove(change)
                    change.apply(durable)
        share = chance.choice([0.0, 0.5, 1.0])
        for change in waiting:
            if chance.random() < share:
                change.apply(durable)
        return {
            path: file and (file.content if file in flushed else torn(file.content, chance))
            for path, file in durable.items()
            if path == self.root or path.parent in durable
        }

    def check(self, count: int, folder: Path, chance: random.Random) -> RunDir | None:
        """Build such a state and go on from it; the run's folder, if it is there."""
        state = self.crash(count, chance)
        for path, content in sorted(state.items()):
            there = folder / path.relative_to(self.root)
            if content is None:
                there.mkdir(exist_ok=True)
            else:
                there.write_bytes(content)
        run = RunDir(folder / "run")
        sure = max((step for after, step in self.saved if after <= count), default=0)
        if not run.path.is_dir():
            assert sure == 0
            return None
        cut = self.events[: chance.randrange(len(self.events) + 1)]
        run.events_file.write_bytes(cut + bytes(chance.choice([0, 100])))
        found = resume.find(self.spec, run, resuming=True, fork=False).point
        assert (found.step if found else 0) >= sure
        for path in run.checkpoints.glob("step-*.safetensors"):
            assert path.read_bytes() == self.checkpoints[path.name]
        exported = run.path / "mine.safetensors"
        assert not exported.exists() or exported.read_bytes() == self.adapter
        log = EventLog(run.events_file)
        log.write("note", text="after")
        log.close()
        assert read_events(run.events_file)[0][-1].body == {"text": "after"}
        return run


def torn(content: bytes, chance: random.Random) -> bytes:
    """What may be left of bytes that were written and not flushed."""
    cut = content[: chance.randrange(len(content) + 1)]
    pages = [content[at : at + PAGE] for at in range(0, len(content), PAGE)]
    holes = b"".join(page if chance.random() < 0.5 else bytes(len(page)) for page in pages)
    return chance.choice([b"", cut, bytes(len(content)), holes, content])


@pytest.fixture(scope="module")
def recording(world, tmp_path_factory) -> Iterator[Recording]:
    root = tmp_path_factory.mktemp("power")
    spec = settings(world, STEPS, METHODS["adamw"])
    save = spec.save.model_copy(update={"keep_checkpoints": 1, "every_steps": 2})
    spec = spec.model_copy(update={"save": save})
    directory = RunDir(root / "run")
    recorder = Recorder(root)
    kept: dict[str, bytes] = {}
    saved: list[tuple[int, int]] = []
    real = checkpoint.save

    def noted(*arguments: Any, **options: Any) -> Path:
        path = real(*arguments, **options)
        kept[path.name] = path.read_bytes()
        saved.append((len(recorder.told), options["step"]))
        return path

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        patch.setattr(checkpoint, "save", noted)
        outcome = run(spec, directory, StopSignal())
    assert outcome.adapter is not None
    assert [step for _, step in saved] == list(range(1, STEPS + 1))
    yield Recording(
        root, recorder.told, spec, directory.events_file.read_bytes(), kept, saved,
        outcome.adapter.read_bytes(),
    )  # fmt: skip
    torch.set_num_threads(threads)


def check_states(recording: Recording, folder: Path, count: int) -> list[RunDir]:
    chance = random.Random(count)
    found = []
    for number in range(count):
        after = number * (len(recording.told) + 1) // count
        where = folder / str(number)
        where.mkdir(parents=True)
        directory = recording.check(after, where, chance)
        if directory is None or number % max(1, count // 5):
            shutil.rmtree(where)
        else:
            found.append(directory)
    return found


def data(adapter: bytes) -> bytes:
    """What follows the header, which holds times."""
    return adapter[8 + int.from_bytes(adapter[:8], "little") :]


def test_a_run_goes_on_from_whatever_a_power_loss_leaves(recording, tmp_path):
    for directory in check_states(recording, tmp_path, 150)[1::2]:
        outcome = run(recording.spec, directory, StopSignal(), resuming=True)
        assert data(outcome.adapter.read_bytes()) == data(recording.adapter)


@pytest.mark.soak
def test_600_states_after_a_power_loss(recording, tmp_path):
    for directory in check_states(recording, tmp_path, 600):
        outcome = run(recording.spec, directory, StopSignal(), resuming=True)
        assert data(outcome.adapter.read_bytes()) == data(recording.adapter)


@pytest.mark.parametrize("lacking", [File, Path])
def test_without_flushes_of_files_or_of_folders_work_would_be_lost(recording, tmp_path, lacking):
    """So the states can tell."""
    told = [each for each in recording.told if not isinstance(each, lacking)]
    places = {id(each): number for number, each in enumerate(told)}
    changes = [each for each in recording.told if isinstance(each, Change)]
    saved = [
        (places[id(changes[sum(isinstance(e, Change) for e in recording.told[:after]) - 1])] + 1, s)
        for after, s in recording.saved
    ]
    careless = replace(recording, told=told, saved=saved)
    with pytest.raises(AssertionError):
        check_states(careless, tmp_path, 150)
