"""Hub ids: only what is needed is fetched, the cache serves again, and failures say what to do."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.families import hub, load_base
from lora_diffusion.families.locate import locate
from tests.lora_diffusion.families.checks import same
from tests.lora_diffusion.families.hub_server import Hub, running
from tests.lora_diffusion.families.other_models import make_sdxl, save_sdxl
from tests.lora_diffusion.families.sd15_models import Models, save_folder, write_json

ID = "owner/name"
UNET = "unet/diffusion_pytorch_model"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the test's own, and a working folder without anything in it."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    empty = tmp_path / "here"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return folder


@pytest.fixture
def served(cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has the tiny model as `owner/name`, with what repositories hold besides."""
    (folder / "README.md").write_text("hello")
    (folder / "v1-5-pruned.safetensors").write_bytes(b"x" * 100)
    (folder / "v1-5-pruned.ckpt").write_bytes(b"x" * 100)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x" * 100)
    (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"x" * 100)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"x" * 100)
    with running(folder) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def refused(location: str = ID) -> str:
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_base(location)
    assert time.monotonic() - began < 10
    return str(caught.value)


def test_a_model_is_fetched_without_what_is_not_needed(served: Hub, models: Models) -> None:
    lines: list[str] = []
    base = load_base(ID, on_progress=lines.append)
    same(base, models)
    assert base.name == ID
    assert sorted(served.fetched) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert any("Fetching owner/name" in line and "GB" in line for line in lines)


def test_the_second_time_nothing_is_asked(
    served: Hub, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_base(ID)
    asked = served.requests
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    same(load_base(ID), models)
    assert served.requests == asked


def test_an_interrupted_download_is_completed(served: Hub, models: Models, cache: Path) -> None:
    load_base(ID)
    link = next(cache.rglob("vae/diffusion_pytorch_model.safetensors"))
    link.resolve().unlink()
    link.unlink()
    served.fetched.clear()
    same(load_base(ID), models)
    assert served.fetched == ["vae/diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize(
    ("dtype", "variant"), [(torch.float16, ".fp16"), (torch.bfloat16, ".fp16"), (torch.float32, "")]
)
def test_half_precision_fetches_the_smaller_files(
    served: Hub, models: Models, dtype: torch.dtype, variant: str
) -> None:
    save_folder(models, served.folder, variant="fp16")
    load_base(ID, dtype=dtype)
    weights = [name for name in served.fetched if name.endswith(".safetensors")]
    assert sorted(weights) == [
        f"text_encoder/model{variant}.safetensors",
        f"{UNET}{variant}.safetensors",
        f"vae/diffusion_pytorch_model{variant}.safetensors",
    ]


def test_another_architecture_is_refused_before_its_weights_are_fetched(served: Hub) -> None:
    index = served.folder / "model_index.json"
    write_json(index, json.loads(index.read_text()) | {"transformer": ["diffusers", "X"]})
    message = refused()
    assert "of the class StableDiffusionPipeline" in message
    assert not [name for name in served.fetched if name.endswith(".safetensors")]


def test_sdxl_is_fetched_with_both_encoders_and_serves_again(
    served: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = make_sdxl()
    shutil.rmtree(served.folder)
    save_sdxl(models, served.folder)
    same(load_base(ID), models)
    fetched = set(served.fetched)
    assert {"text_encoder_2/model.safetensors", "tokenizer_2/tokenizer_config.json"} < fetched
    asked = served.requests
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    same(load_base(ID), models)
    assert served.requests == asked


def test_pickles_alone(served: Hub) -> None:
    (served.folder / f"{UNET}.safetensors").unlink()
    message = refused()
    assert "diffusion_pytorch_model.bin" in message
    assert "pickle" in message
    assert not served.fetched


def test_a_repository_of_single_files(served: Hub) -> None:
    (served.folder / "model_index.json").unlink()
    assert "hf download owner/name v1-5-pruned.safetensors" in refused()


def test_a_repository_of_something_else(served: Hub) -> None:
    (served.folder / "model_index.json").unlink()
    (served.folder / "v1-5-pruned.safetensors").unlink()
    assert "not a model in diffusers layout" in refused()


def test_a_repository_without_tokenizer(served: Hub) -> None:
    shutil.rmtree(served.folder / "tokenizer")
    message = refused()
    assert "lacks tokenizer" in message
    assert message.startswith("owner/name: ")


def test_a_broken_download_is_named_by_its_id(served: Hub) -> None:
    weights = served.folder / f"{UNET}.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    message = refused()
    assert "diffusion_pytorch_model.safetensors" in message
    assert "cut short" in message


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "RepoNotFound", "neither a folder here nor a model on the Hugging Face hub"),
        (401, "RepoNotFound", "hf auth login"),
        (403, "GatedRepo", "Accept the terms at https://huggingface.co/owner/name"),
        (403, "", "did not give it"),
        (500, "", "did not give it"),
    ],
)
def test_refusals_of_the_hub(served: Hub, status: int, code: str, says: str) -> None:
    served.failure = (status, code)
    message = refused()
    assert says in message
    assert message.startswith("owner/name: ")


def test_no_connection_fails_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    message = refused()
    assert "did not give it" in message
    assert "Check the connection" in message


def test_offline_mode_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused()


@pytest.mark.parametrize(
    "location",
    [
        "owner/name",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4",
        "SG161222/Realistic_Vision_V5.1_noVAE",
    ],
)
def test_ids_are_told_from_paths(cache: Path, location: str, no_network: list[object]) -> None:
    assert locate(location) == location
    # With a folder of the owner's name here, it is a path; the prefix still means the hub.
    Path(location).parent.mkdir()
    with pytest.raises(InputError, match=f"write hub:{location}"):
        locate(location)
    assert locate(f"hub:{location}") == location
    Path(location).mkdir()
    assert locate(location) == Path(location)


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("nowhere", "no such folder or file"),
        ("./owner/name", "no such folder or file"),
        ("~/owner/name", "no such folder or file"),
        ("/owner/name", "no such folder or file"),
        ("a/b/c", "no such folder or file"),
        ("models/dream.safetensors", "no such folder or file"),
        ("models/dream.ckpt", "no such folder or file"),
        ("C:\\models\\dream", "no such folder or file"),
        ("x" * 5000, "no such folder or file"),
        ("nul\0l", "no such folder or file"),
        ("hub:a/b/c", "comes owner/name"),
        ("https://huggingface.co/owner/name", "is an address"),
        ("bundled:nothing", "is not bundled"),
    ],
)
def test_what_is_neither(cache: Path, location: str, says: str, no_network: list[object]) -> None:
    with pytest.raises(InputError) as caught:
        load_base(location)
    assert says in str(caught.value)
    assert "\0" not in str(caught.value)


def test_the_nearest_name_is_suggested(cache: Path) -> None:
    Path("dreamshaper_8.safetensors").touch()
    with pytest.raises(InputError, match=r"Did you mean dreamshaper_8\.safetensors\?"):
        locate("dreamshaper8.safetensors")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/name", True),
        ("owner/na.me-1_x", True),
        ("owner/name/file", False),
        ("name", False),
        ("../name", False),
        ("owner/name.safetensors", False),
        ("owner/name.CKPT", False),
        ("own er/name", False),
        ("-owner/name", False),
    ],
)
def test_what_looks_like_an_id(name: str, expected: bool) -> None:
    assert hub.looks_like_id(name) is expected
