"""The look at the pictures before a run: errors stop it, warnings are told once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from tests.trainers.data.corpus import encoded, noise
from trainers import setup
from trainers.events import EventLog, read_events
from trainers.layering import build_spec
from trainers.stopping import StopSignal
from trainers.teller import Teller


@pytest.fixture
def look(tmp_path):
    (tmp_path / "d").mkdir()

    def run():
        log = EventLog(tmp_path / "events.jsonl")
        spec = build_spec([{"data": {"folder": str(tmp_path / "d"), "trigger": "sks"}}])
        try:
            return setup.find_pictures(spec, Teller(log, StopSignal()))
        finally:
            log.close()

    return run


def put(folder: Path, name: str, content: bytes) -> None:
    (folder / "d" / name).write_bytes(content)


def doctors_events(folder: Path) -> list[dict]:
    events, _ = read_events(folder / "events.jsonl")
    return [event.body for event in events if event.kind == "doctor"]


def test_errors_stop_the_run_with_every_file_named(tmp_path, look):
    put(tmp_path, "a.png", encoded(noise(1), "PNG"))
    for number in range(30):
        put(tmp_path, f"bad-{number:02d}.png", encoded(noise(1), "PNG")[: 60 + number])
    with pytest.raises(InputError) as caught:
        look()
    assert len(str(caught.value).splitlines()) == 21
    (body,) = doctors_events(tmp_path)
    assert body["counts"]["error"] == 30
    assert len([p for p in body["problems"] if p["severity"] == "error"]) == 30


def test_warnings_are_told_once_and_sizes_and_digests_known(tmp_path, look, capsys):
    for number in range(13):
        put(tmp_path, f"{number}.png", encoded(noise(1), "PNG"))
    instances, classes = look()
    assert (len(instances), classes) == (13, [])
    assert all(p.size_px == (48, 48) and len(p.digest) == 64 for p in instances)
    said = capsys.readouterr().err
    assert said.count("is the same file as 0.png") == 10
    assert "… and 2 more warnings; lora-diffusion doctor lists them" in said
    assert "13 pictures: 12 warnings, 1 note (12 duplicate, 1 no-captions)" in said
    assert doctors_events(tmp_path)[0]["kinds"] == {"duplicate": 12, "no-captions": 1}


def test_a_clean_folder_is_passed_without_a_word(tmp_path, look):
    put(tmp_path, "a.png", encoded(noise(1), "PNG"))
    (tmp_path / "d" / "a.txt").write_text("sks")
    look()
    assert doctors_events(tmp_path) == []


def test_a_dataset_of_regularisation_pictures_alone_is_refused(tmp_path, look):
    (tmp_path / "d" / "reg" / "1_dog").mkdir(parents=True)
    put(tmp_path, "reg/1_dog/a.png", encoded(noise(1), "PNG"))
    with pytest.raises(InputError, match="regularisation pictures only"):
        look()
