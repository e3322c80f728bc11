"""The index: found by words, kept up to date, and what survives."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from lora_diffusion.formats.hash import file_hashes
from tests.trainers.library.conftest import save_sd_scripts
from trainers.library import index
from trainers.library.index import Library


@pytest.fixture
def library(folder: Path, tmp_path: Path) -> Library:
    found = Library(folder, tmp_path / "index.sqlite")
    found.update()
    return found


def names(library: Library, words: str = "", **only: str) -> list[str]:
    return [card.file for card in library.cards(words, **only)]


def test_cards_tell_what_a_file_is(library):
    card = library.cards("snow fox")[0]
    digests = file_hashes(library.folder / "snow.safetensors")
    assert (card.file, card.name, card.title) == ("snow.safetensors", "snow", "Snow fox")
    assert (card.arch, card.base, card.kind, card.rank, card.alpha) == (
        "sd15", "demo_base", "lora", 4, 4.0
    )  # fmt: skip
    assert (card.sha256, card.autov2, card.autov3) == (
        digests.sha256, digests.autov2, digests.autov3
    )  # fmt: skip
    assert card.trigger_words == ("snwfx",)
    assert card.tags == (("snow", 9), ("night", 3))
    assert card.has_thumbnail
    assert library.thumbnail(card.file).startswith("data:image/jpeg;base64,")
    assert "ss_network_dim" in library.metadata(card.file)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("snwfx", ["snow.safetensors"]),
        ("nigh", ["snow.safetensors"]),
        ("WINTER pictures", ["snow.safetensors"]),
        ("fox", ["snow.safetensors", "sub/ink.safetensors"]),
        ("fox anything", ["sub/ink.safetensors"]),
        ("sub", ["sub/ink.safetensors"]),
        ('"fox" OR (NEAR *', []),
        ("fox bear", []),
        ("--", []),
    ],
)
def test_words_find_cards(library, words, found):
    assert sorted(names(library, words)) == found


def test_cards_can_be_limited_to_a_base_or_a_kind(library):
    assert len(names(library, arch="sd15")) == 2
    assert names(library, arch="sdxl") == []
    assert names(library, "fox", kind="dora") == []


def test_hashes_find_cards_in_each_spelling(library):
    card = library.cards("ink")[0]
    for digest in (card.sha256, card.autov2.upper(), card.autov3):
        assert [c.file for c in library.by_hash(digest)] == [card.file]
    assert library.by_hash("") == []


def test_broken_files_are_listed_last_with_their_reason(library):
    cards = {card.file: card for card in library.cards()}
    assert "cut short" in cards["cut.safetensors"].broken
    assert cards["other.safetensors"].broken
    assert list(cards)[-2:] == ["cut.safetensors", "other.safetensors"]


def test_only_what_changed_is_read_again(library, monkeypatch):
    described: list[str] = []
    real = index.describe
    monkeypatch.setattr(index, "describe", lambda path: described.append(path.name) or real(path))
    assert library.update().read == 0 and described == []
    path = library.folder / "snow.safetensors"
    os.utime(path, ns=(1, 1))
    changes = library.update()
    assert (changes.read, changes.known) == (0, 1) and described == []
    save_sd_scripts(path, seed=5, ss_output_name="other")
    assert library.update().read == 1 and described == ["snow.safetensors"]
    assert names(library, "winter") == []
    assert library.cards("other")[0].title == "other"


def test_a_renamed_file_is_known_by_its_bytes_and_a_deleted_one_forgotten(library, monkeypatch):
    monkeypatch.setattr(index, "describe", lambda path: pytest.fail(f"read {path.name} again"))
    shutil.move(library.folder / "sub" / "ink.safetensors", library.folder / "moved.safetensors")
    changes = library.update()
    assert (changes.known, changes.gone) == (1, 1)
    assert "moved.safetensors" in names(library, "fox")
    (library.folder / "moved.safetensors").unlink()
    assert library.update().gone == 1
    assert names(library, "ink") == []


def test_what_lies_beside_a_file_is_read_without_reading_the_file(library, monkeypatch):
    monkeypatch.setattr(index, "describe", lambda path: pytest.fail(f"read {path.name} again"))
    (library.folder / "snow.json").write_text(
        '{"activation text": "arctic", "preferred weight": 0.7}'
    )
    library.update()
    card = library.cards("arctic")[0]
    assert (card.file, card.preferred_weight) == ("snow.safetensors", 0.7)
    (library.folder / "snow.json").unlink()
    library.update()
    assert library.cards("snwfx")[0].trigger_words == ("snwfx",)


def test_an_update_that_is_stopped_keeps_what_it_read(folder, tmp_path):
    class Stop(Exception):
        pass

    def stops(done: int, total: int, file: str) -> None:
        if done == 3:
            raise Stop

    library = Library(folder, tmp_path / "index.sqlite")
    with pytest.raises(Stop):
        library.update(stops)
    assert len(library.cards()) == 3
    assert library.update().read == 1


def test_checkpoints_of_runs_and_hidden_files_are_no_adapters_of_the_library(folder, tmp_path):
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "events.jsonl").touch()
    for place in (run / "run.safetensors", run / "checkpoints" / "step.safetensors",
                  folder / ".hidden.safetensors"):  # fmt: skip
        save_sd_scripts(place)
    library = Library(folder, tmp_path / "index.sqlite")
    library.update()
    assert "run/run.safetensors" in names(library)
    assert not any("step" in name or "hidden" in name for name in names(library))


def test_a_file_that_is_no_index_and_a_folder_that_is_none_are_refused(folder, tmp_path):
    wrong = tmp_path / "wrong.sqlite"
    wrong.write_bytes(b"not a database, and long enough to be read as the header of one" * 4)
    with pytest.raises(InputError, match=r"wrong\.sqlite: the index can't be used"):
        Library(folder, wrong)
    with pytest.raises(InputError, match="no such folder"):
        Library(tmp_path / "nowhere", tmp_path / "index.sqlite")
    library = Library(folder, tmp_path / "index.sqlite")
    with pytest.raises(InputError, match=r"has no file 'a\.safetensors'"):
        library.metadata("a.safetensors")
