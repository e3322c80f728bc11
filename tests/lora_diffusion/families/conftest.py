"""Tiny models on disk, and a network that fails the test which touches it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import Tensor

from tests.lora_diffusion.families.sd15_models import (
    Models,
    ldm_tensors,
    make_models,
    save_checkpoint,
    save_folder,
)


@pytest.fixture(scope="module", autouse=True)
def all_on_one_thread(one_thread: None) -> None:
    """Every test here."""


@pytest.fixture(scope="session")
def models() -> Models:
    return make_models()


@pytest.fixture(scope="session")
def saved(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models as a folder; not to be changed."""
    return save_folder(models, tmp_path_factory.mktemp("saved") / "tiny")


@pytest.fixture(scope="session")
def words(saved: Path) -> Path:
    """The tokenizer's folder."""
    return saved / "tokenizer"


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """The models as a folder of the test's own."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


@pytest.fixture
def tensors(models: Models) -> dict[str, Tensor]:
    """The models under a checkpoint's names; the dict is the test's own."""
    return ldm_tensors(models)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writes tensors as `tiny.safetensors`."""

    def save(tensors: dict[str, Tensor], **settings: object) -> Path:
        return save_checkpoint(tensors, tmp_path / "tiny.safetensors", **settings)  # type: ignore[arg-type]

    return save


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Addresses that somebody tried to reach: none, or the test fails."""
    asked: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield asked
    assert not asked
