"""What lies beside adapters: A1111's and CivitAI's helpers' files, read and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lora_diffusion.errors import InputError
from lora_diffusion.formats.hash import FileHashes
from lora_diffusion.formats.metadata import thumbnail_data_url
from trainers.library import sidecars

CIVITAI = {
    "id": 7,
    "baseModel": "SD 1.5",
    "trainedWords": ["fox girl", "winter\u202e"],
    "description": "<p>A <b>fox</b></p>",
    "model": {"name": "Foxes", "nsfw": False},
}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "fox.v2.safetensors"
    path.touch()
    return path


def test_nothing_beside_a_file_is_nothing(adapter):
    assert sidecars.read(adapter) == sidecars.Sidecar()
    assert sidecars.stamp(adapter) == ""


def test_a1111s_card_wins_over_civitais_record(adapter):
    adapter.with_name("fox.v2.civitai.info").write_text(json.dumps(CIVITAI))
    found = sidecars.read(adapter)
    assert (found.activation_text, found.title, found.base, found.description) == (
        "fox girl, winter", "Foxes", "SD 1.5", "A fox"
    )  # fmt: skip
    card = {"activation text": "vulpes", "preferred weight": 0.6, "negative text": "dog"}
    adapter.with_name("fox.v2.json").write_text(json.dumps(card), encoding="utf-8-sig")
    found = sidecars.read(adapter)
    assert (found.activation_text, found.preferred_weight, found.negative_text) == (
        "vulpes", 0.6, "dog"
    )  # fmt: skip
    assert found.title == "Foxes"


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", '{"activation text": 3, "preferred weight": "x"}']
)
def test_what_cannot_be_read_is_nothing(adapter, text):
    adapter.with_name("fox.v2.json").write_text(text)
    found = sidecars.read(adapter)
    assert (found.activation_text, found.preferred_weight) == ("", None)


def test_the_preview_is_found_in_a1111s_order(adapter):
    adapter.with_name("fox.v2.png").touch()
    assert sidecars.preview_of(adapter).name == "fox.v2.png"
    before = sidecars.stamp(adapter)
    adapter.with_name("fox.v2.preview.png").touch()
    assert sidecars.preview_of(adapter).name == "fox.v2.preview.png"
    assert sidecars.stamp(adapter) != before


def test_a_card_is_written_under_a1111s_names_and_keeps_what_is_there(adapter):
    path = adapter.with_name("fox.v2.json")
    path.write_text('{"notes": "mine", "their own": [1]}')
    sidecars.write_card(adapter, {"activation_text": "vulpes", "preferred_weight": 0.8}, "sdxl")
    assert json.loads(path.read_text()) == {
        "notes": "mine",
        "their own": [1],
        "activation text": "vulpes",
        "preferred weight": 0.8,
        "sd version": "SDXL",
    }
    assert sidecars.read(adapter).notes == "mine"
    with pytest.raises(InputError, match="no field 'title'"):
        sidecars.write_card(adapter, {"title": "x"})
    path.write_text("not json")
    with pytest.raises(InputError, match="is no card"):
        sidecars.write_card(adapter, {"notes": "x"})
    assert path.read_text() == "not json"


def test_civitais_record_is_written_and_read_again(adapter):
    hashes = FileHashes("ab" * 32, "cd" * 32)
    path = sidecars.write_civitai_info(adapter, "Foxes", ("vulpes",), "sd15", hashes)
    told = json.loads(path.read_text())
    assert told["files"][0]["hashes"]["AutoV3"] == "CDCDCDCDCDCD"
    found = sidecars.read(adapter)
    assert (found.title, found.activation_text, found.base) == ("Foxes", "vulpes", "SD 1.5")


def test_a_preview_is_written_from_a_file_or_a_data_url(adapter, tmp_path):
    url = thumbnail_data_url(Image.new("RGB", (40, 30), "red"))
    path = sidecars.write_preview(adapter, url)
    assert path == sidecars.preview_of(adapter)
    with Image.open(path) as shown:
        assert (shown.format, shown.size) == ("PNG", (40, 30))
    (tmp_path / "a.txt").write_text("no picture")
    with pytest.raises(InputError, match=r"a\.txt: has no picture"):
        sidecars.write_preview(adapter, tmp_path / "a.txt")
