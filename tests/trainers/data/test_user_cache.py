"""Where what can be made anew is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainers.data import index, prepare
from trainers.data.user_cache import VARIABLE, user_cache
from trainers.library.index import Library
from trainers.spec import DataSpec
from ui.gate import thumbnails


@pytest.mark.parametrize(
    ("own", "shared", "where"),
    [
        ("/own", "/shared", "/own"),
        ("~/own", None, "/home/me/own"),
        (None, "/shared", "/shared/lora-diffusion"),
        ("", "not/absolute", "/home/me/.cache/lora-diffusion"),
        (None, "", "/home/me/.cache/lora-diffusion"),
        (None, None, "/home/me/.cache/lora-diffusion"),
    ],
)
def test_the_own_variable_wins_over_the_shared_one(
    monkeypatch: pytest.MonkeyPatch, own: str | None, shared: str | None, where: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in ((VARIABLE, own), ("XDG_CACHE_HOME", shared)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert user_cache() == Path(where)


def test_all_that_is_kept_lies_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept"))
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    places = [
        index.default_folder(), thumbnails.default_folder(), Library(adapters).file,
        prepare.cache_folder(DataSpec(folder="x", cache="disk")),
    ]  # fmt: skip
    assert all(place.is_relative_to(tmp_path / "kept") for place in places)


def test_the_tests_themselves_use_a_folder_of_their_own() -> None:
    assert not user_cache().is_relative_to(Path.home())
