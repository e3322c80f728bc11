"""Whose captions are replaced, what is written, and what a fault leaves behind."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock

from lora_diffusion.errors import InputError
from tests.trainers.data.captioners.shots import fill
from trainers.data.captioners import keeping as work
from trainers.data.captioners.drafts import Draft, Finish, drafts
from trainers.data.captioners.folder import Plan, caption_folder, locked, plan
from trainers.data.captioners.journal import NAME, Journal
from trainers.data.captioners.keeping import Author, Beside, DraftFile, Outcome, read_drafts
from trainers.data.captioners.plugin import Shot
from trainers.data.scan import scan

PLAIN = Finish()


@dataclass
class Namer:
    """Captions a picture with its file name and a number that tells one run from another."""

    run: int = 1
    batches: list[int] = field(default_factory=list)
    model: str = "namer"

    def caption(self, shots: Sequence[Shot]) -> list[str]:
        self.batches.append(len(shots))
        return [f"{shot.name} in {shot.folder}, {self.run}" for shot in shots]


def run(
    folder: Path,
    captioner: Namer | None = None,
    *,
    overwrite: bool = False,
    redo: bool = False,
    finish: Finish = PLAIN,
    batch: int = 2,
    stop_after: int | None = None,
) -> tuple[Plan, Outcome]:
    captioner = captioner or Namer()
    journal = Journal(folder)
    todo = plan(folder, journal, overwrite=overwrite, redo=redo, ending=".txt")
    outcome = caption_folder(
        Beside(journal, Author("namer", {"run": captioner.run}, captioner)),
        todo.tasks,
        captioner,
        finish,
        batch=batch,
        cancelled=lambda: stop_after is not None and len(captioner.batches) >= stop_after,
        on_progress=lambda done, total: None,
    )
    return todo, outcome


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / NAME).read_text("utf-8").splitlines()]


def test_captions_are_read_back_by_the_trainer(tmp_path):
    fill(tmp_path, 3)
    captioner = Namer()
    todo, outcome = run(tmp_path, captioner, finish=Finish("photo of ", ", sharp,", "sks"))
    assert (len(todo.tasks), outcome.written, outcome.failed) == (3, 3, [])
    assert captioner.batches == [2, 1]
    assert [p.caption for p in scan(tmp_path, default_caption=None)] == [
        f"sks, photo of {n:03d}.png in {tmp_path.name}, 1, sharp" for n in range(3)
    ]
    assert {p.name for p in tmp_path.iterdir()} == {
        NAME,
        *(f"{n:03d}{ending}" for n in range(3) for ending in (".png", ".txt")),
    }
    first = records(tmp_path)[0]
    assert first["picture"] == "000.png"
    assert (first["with"], first["model"], first["settings"]) == ("namer", "namer", {"run": 1})


def test_who_wrote_a_caption_decides(tmp_path):
    fill(tmp_path, 6)
    (tmp_path / "000.txt").write_text("mine")
    (tmp_path / "001.caption").write_text("mine too")
    (tmp_path / "002.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "003.txt").write_text(" \n")
    todo, outcome = run(tmp_path)
    assert (todo.kept_human, todo.kept_machine, outcome.written) == (3, 0, 3)
    (tmp_path / "004.txt").write_text("edited")

    todo, outcome = run(tmp_path, Namer(2))
    assert (todo.kept_human, todo.kept_machine, outcome.written) == (4, 2, 0)
    todo, outcome = run(tmp_path, Namer(2), redo=True)
    assert (todo.kept_human, todo.kept_machine, outcome.written) == (4, 0, 2)
    assert (tmp_path / "000.txt").read_text() == "mine"
    assert (tmp_path / "002.txt").read_bytes() == b"caf\xe9"
    assert (tmp_path / "003.txt").read_text() == f"003.png in {tmp_path.name}, 2\n"
    assert (tmp_path / "004.txt").read_text() == "edited"

    todo, outcome = run(tmp_path, Namer(3), overwrite=True)
    assert (todo.kept_human, todo.kept_machine, outcome.written) == (0, 2, 4)
    assert (tmp_path / "001.caption").read_text() == f"001.png in {tmp_path.name}, 3\n"
    assert not (tmp_path / "001.txt").exists()
    replaced = {r["picture"]: r["replaced"] for r in records(tmp_path) if "replaced" in r}
    assert replaced["000.png"] == "mine"
    assert replaced["004.png"] == "edited"
    assert set(replaced) == {"000.png", "001.png", "002.png", "004.png"}


def test_nested_folders_tables_and_names_that_clash(tmp_path):
    fill(tmp_path / "2_hero", 1)
    fill(tmp_path / "other", 1)
    (tmp_path / "other" / "metadata.jsonl").write_text(
        '{"file_name": "000.png", "text": "a person wrote this"}\n'
    )
    fill(tmp_path, 1)
    (tmp_path / "000.png").rename(tmp_path / "a.png")
    (tmp_path / "a.webp").write_bytes((tmp_path / "a.png").read_bytes())
    todo, outcome = run(tmp_path)
    assert (todo.kept_human, outcome.written) == (1, 3)
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.txt")}
    assert written == {"2_hero/000.txt", "a.png.txt", "a.webp.txt"}
    todo, outcome = run(tmp_path)
    assert (todo.kept_human, todo.kept_machine, outcome.written) == (1, 3, 0)


def test_a_caption_that_two_pictures_share_is_a_persons(tmp_path):
    fill(tmp_path, 1)
    (tmp_path / "000.webp").write_bytes((tmp_path / "000.png").read_bytes())
    (tmp_path / "000.txt").write_text("of which?")
    todo, _ = run(tmp_path)
    assert todo.kept_human == 2
    run(tmp_path, overwrite=True)
    assert (tmp_path / "000.txt").read_text() == "of which?"
    assert (tmp_path / "000.webp.txt").is_file()


def test_unreadable_pictures_are_named_and_the_rest_is_done(tmp_path):
    fill(tmp_path, 5)
    (tmp_path / "001.png").write_bytes(b"no picture")
    (tmp_path / "004.png").write_bytes((tmp_path / "003.png").read_bytes()[:40])
    _, outcome = run(tmp_path, batch=3)
    assert outcome.written == 3
    assert [name for name, _ in outcome.failed] == ["001.png", "004.png"]
    assert all("\n" not in cause and "00" in cause for _, cause in outcome.failed)


def test_silence_is_a_failure_not_an_empty_caption(tmp_path):
    fill(tmp_path, 2)

    class Silent(Namer):
        def caption(self, shots: Sequence[Shot]) -> list[str]:
            return [" \n" for _ in shots]

    _, outcome = run(tmp_path, Silent())
    assert [cause.rpartition(": ")[2] for _, cause in outcome.failed] == [
        "the captioner has no words for it."
    ] * 2
    assert not list(tmp_path.glob("*.txt"))


def test_a_captions_text_is_one_clean_line(tmp_path):
    finish = Finish(prefix="  a\n", suffix="\x1b[31m,", trigger="sks")
    assert finish.apply("b\r\n c\u202e\t, ") == "sks, a b c , [31m"
    assert Finish(trigger="sks").apply("the sks") == "the sks"


def test_stopping_keeps_what_is_done(tmp_path):
    fill(tmp_path, 7)
    todo, outcome = run(tmp_path, stop_after=2)
    assert outcome.written == len(list(tmp_path.glob("*.txt"))) == 4
    todo, outcome = run(tmp_path)
    assert (todo.kept_machine, outcome.written) == (4, 3)


def test_a_captioner_that_gives_up_keeps_what_is_done(tmp_path):
    fill(tmp_path, 6)

    class Full(Namer):
        def caption(self, shots: Sequence[Shot]) -> list[str]:
            if len(self.batches) == 2:
                raise InputError("too little memory")
            return super().caption(shots)

    with pytest.raises(InputError, match="too little memory"):
        run(tmp_path, Full())
    assert len(list(tmp_path.glob("*.txt"))) == 4


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_full_disk_at_any_write(tmp_path, monkeypatch, nth):
    fill(tmp_path, 5)
    writes = 0
    real_write, real_add = work.write_text, Journal.add

    def count() -> None:
        nonlocal writes
        writes += 1
        if writes == nth:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write(path: Path, text: str) -> None:
        count()
        real_write(path, text)

    def add(self: Journal, entries: object) -> None:
        count()
        real_add(self, entries)

    monkeypatch.setattr(work, "write_text", write)
    monkeypatch.setattr(Journal, "add", add)
    with pytest.raises(InputError, match=r"No space left.*run the same command again"):
        run(tmp_path)
    done = len(list(tmp_path.glob("*.txt")))
    todo, outcome = run(tmp_path)
    assert (todo.kept_human, todo.kept_machine, outcome.written) == (0, done, 5 - done)


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_torn_journal_line_is_survived(tmp_path, cut):
    fill(tmp_path, 3)
    run(tmp_path)
    journal = tmp_path / NAME
    journal.write_bytes(journal.read_bytes()[:-cut])
    todo, _ = run(tmp_path)
    # The line was torn: its caption counts as a person's, which is the safe side.
    assert (todo.kept_human, todo.kept_machine) == (cut > 1, 3 - (cut > 1))
    (tmp_path / "000.txt").unlink()
    _, outcome = run(tmp_path)
    assert outcome.written == 1
    todo, _ = run(tmp_path)
    assert todo.kept_machine == 3 - (cut > 1)


def test_a_strangers_journal_is_survived(tmp_path):
    fill(tmp_path, 1)
    nested = b"[" * 100_000
    lines = [
        b"\xff\x00",
        b"7",
        b"null",
        b'{"picture": 3}',
        b'{"picture": [], "caption_sha256": {}}',
    ]
    (tmp_path / NAME).write_bytes(b"\n".join([*lines, nested, b""]))
    _, outcome = run(tmp_path)
    assert outcome.written == 1


def test_drafts_write_nothing_and_can_be_left(tmp_path):
    paths = fill(tmp_path, 5)
    captioner = Namer()
    made = drafts(captioner, paths, batch=2, finish=Finish(trigger="sks"), cancelled=lambda: False)
    assert next(made) == Draft(paths[0], f"sks, 000.png in {tmp_path.name}, 1")
    made.close()
    assert captioner.batches == [2]
    assert {path.suffix for path in tmp_path.iterdir()} == {".png"}


def test_one_run_at_a_time_and_only_where_writing_works(tmp_path, monkeypatch):
    with (
        FileLock(tmp_path / ".captions.lock"),
        pytest.raises(InputError, match="another captioning run"),
        locked(tmp_path),
    ):
        pass
    with pytest.raises(InputError, match="no such folder"), locked(tmp_path / "none"):
        pass

    def refuse(**where: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match="can't be written there"), locked(tmp_path):
        pass


def test_a_file_of_drafts_leaves_the_folder_alone(tmp_path):
    fill(tmp_path, 3)
    captioner = Namer()
    journal = Journal(tmp_path)
    todo = plan(tmp_path, journal, overwrite=False, redo=False, ending=".txt")
    file = tmp_path.parent / f"{tmp_path.name}.jsonl"
    before = sorted(tmp_path.rglob("*"))
    outcome = caption_folder(
        DraftFile(file, Author("namer", {"run": 1}, captioner), len(todo.tasks)),
        todo.tasks, captioner, PLAIN,
        batch=2, cancelled=lambda: False, on_progress=lambda done, total: None,
    )  # fmt: skip
    assert outcome.written == 3 and sorted(tmp_path.rglob("*")) == before
    with file.open("a") as torn:
        torn.write('{"picture": "x.png", "capt')
    found = read_drafts(file)
    assert found is not None and found.pictures == 3
    assert found.captions == {
        f"{n:03d}.png": f"{n:03d}.png in {tmp_path.name}, 1" for n in range(3)
    }
    assert (found.author.captioner, found.author.model, found.author.settings) == (
        "namer", "namer", {"run": 1}
    )  # fmt: skip
    assert read_drafts(tmp_path / "none.jsonl") is None
    file.write_text("[]")
    assert read_drafts(file) is None
