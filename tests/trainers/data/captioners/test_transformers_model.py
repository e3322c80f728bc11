"""BLIP, Florence-2 and LLaVA: what they write is what the library's own plain use writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_diffusion.errors import InputError
from tests.lora_diffusion.families.hub_server import running
from tests.trainers.data.captioners.shots import opened, several, shot
from tests.trainers.data.captioners.tiny_models import MODELS, TEXT_TEMPLATE, save_llava
from trainers.data.captioners import registry
from trainers.data.captioners.plugin import Context

KINDS = ("blip", "florence2", "llava")
TOKENS = 8


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("models")

    def model(kind: str) -> Path:
        if not (root / kind).exists():
            MODELS[kind](root / kind)
        return root / kind

    return model


@pytest.fixture
def copy(models: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    def copied(kind: str) -> Path:
        return Path(shutil.copytree(models(kind), tmp_path / "model"))

    return copied


def plain(folder: Path, text: str | None, image: Any, **how: Any) -> str:
    """One caption by the library alone."""
    import transformers

    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(images=image, text=text, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, **how)
    if kind.startswith("Llava"):
        tokens = tokens[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(tokens, skip_special_tokens=True)[0]


@pytest.mark.parametrize(
    ("kind", "settings", "text"),
    [
        ("blip", {"beams": 1}, None),
        ("blip", {"beams": 3, "start": "a photo of"}, "a photo of"),
        ("florence2", {"beams": 2, "detail": "short"}, "<CAPTION>"),
        ("florence2", {"beams": 1, "detail": "paragraph"}, "<MORE_DETAILED_CAPTION>"),
        ("llava", {"prompt": "describe image", "system": "a"}, "SYSTEM a USER <image> describe"),
    ],
)
def test_a_batch_says_what_one_picture_at_a_time_says(models, kind, settings, text):
    shots = several()
    captions = opened(kind, model=str(models(kind)), max_tokens=TOKENS, **settings).caption(shots)
    if kind == "llava":
        text += " image ASSISTANT "
    how = {"num_beams": settings["beams"]} if "beams" in settings else {}
    assert captions == [plain(models(kind), text, shot.image, **how) for shot in shots]
    assert len(set(captions)) >= 3, "the captions do not depend on the pictures"
    special = ("<pad>", "</s>", "[PAD]", "[SEP]")
    assert not any(token in caption for caption in captions for token in special)


@pytest.mark.parametrize("kind", KINDS)
def test_length_and_precision(models, kind):
    short = opened(kind, model=str(models(kind)), max_tokens=4).caption([shot("noise")])[0]
    assert 1 <= len(short.split()) <= 4
    plugin = registry.find(kind)
    settings = plugin.settings(model=str(models(kind)), max_tokens=4)
    half = plugin.open(settings, Context("", "cpu", "bf16", lambda text: None))
    assert next(half.loaded.model.parameters()).dtype == torch.bfloat16
    assert len(half.caption([shot("noise")])) == 1


def test_a_temperature_varies_with_the_seed_and_nothing_else(models):
    def captions(**settings: Any) -> list[str]:
        return opened("llava", model=str(models("llava")), max_tokens=TOKENS, **settings).caption(
            several()
        )

    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = captions(temperature=1.5, top_p=1.0, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert captions(temperature=1.5, top_p=1.0, seed=1) == first
    assert captions(temperature=1.5, top_p=1.0, seed=2) != first
    assert captions() != first


def test_the_chat_is_the_models_own(models, tmp_path):
    settings = {"system": "be kind", "prompt": "what is {trigger} ?"}
    parts = opened("llava", "sks", model=str(models("llava")), **settings)
    assert parts.request == "<s>SYSTEM be kind USER <image> what is sks ? ASSISTANT "
    save_llava(tmp_path / "text", TEXT_TEMPLATE)
    text = opened("llava", "sks", model=str(tmp_path / "text"), **settings)
    assert text.request == "SYSTEM be kind USER <image> what is sks ? ASSISTANT "
    for captioner in (parts, text):  # one begin-of-text token, whoever puts it
        ids = captioner.inputs([shot()])["input_ids"][0].tolist()
        assert ids.count(1) == 1
    save_llava(tmp_path / "none", None)
    with pytest.raises(InputError, match="has no chat template"):
        opened("llava", model=str(tmp_path / "none"))
    save_llava(tmp_path / "blind", "{{ messages[-1]['role'] }}")
    with pytest.raises(InputError, match="one picture and a request"):
        opened("llava", model=str(tmp_path / "blind"))


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_is_refused(models, kind):
    other = KINDS[KINDS.index(kind) - 1]
    with pytest.raises(InputError, match=f"'{other}', and a '{kind}' model is needed"):
        opened(kind, model=str(models(other)))


def test_a_model_with_code_of_its_own_is_refused(copy):
    folder = copy("florence2")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "code.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError, match="code of its own, which is refused"):
        opened("florence2", model=str(folder))


def test_pickles_are_refused(copy):
    folder = copy("blip")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickles are refused"):
        opened("blip", model=str(folder))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", None),
        ("model.safetensors", b"noise"),
        ("model.safetensors", None),
        ("processor_config.json", b"\xff"),
        ("tokenizer.json", b"{}"),
    ],
)
def test_damaged_folders_are_one_line(copy, kind, file, content):
    folder = copy(kind)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        opened(kind, model=str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_there_are_counted(copy):
    from safetensors.torch import load_file, save_file

    folder = copy("blip")
    weights = load_file(folder / "model.safetensors")
    metadata = {"format": "pt"}
    some = dict(list(weights.items())[:10])
    save_file(some, folder / "model.safetensors", metadata)
    with pytest.raises(InputError, match=r"of \d+ weights are missing"):
        opened("blip", model=str(folder))
    weights.pop("vision_model.post_layernorm.bias")
    save_file(weights, folder / "model.safetensors", metadata)
    said: list[str] = []
    plugin = registry.find("blip")
    plugin.open(plugin.settings(model=str(folder)), Context("", "cpu", "fp32", said.append))
    assert any("1 of" in line and "post_layernorm.bias" in line for line in said)


def test_too_little_memory_names_the_batch(models, monkeypatch):
    captioner = opened("blip", model=str(models("blip")))

    def full(*model: Any, **inputs: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(captioner.loaded.model, "generate", full)
    with pytest.raises(InputError, match=r"5 pictures at a time. Use --batch 1"):
        captioner.caption(several())
    with pytest.raises(InputError, match="smaller model"):
        captioner.caption([shot()])
    monkeypatch.setattr(type(captioner.loaded.model), "to", full)
    with pytest.raises(InputError, match="does not fit into the memory of cpu"):
        opened("blip", model=str(models("blip")))


def test_a_hub_model_is_fetched_once_and_nothing_but_what_is_needed(copy, tmp_path, monkeypatch):
    folder = copy("blip")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "README.md").write_text("hello")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    with running(folder) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        first = opened("blip", model="owner/name", max_tokens=3).caption([shot()])
        assert "model.safetensors" in server.fetched
        assert not {"pytorch_model.bin", "README.md"} & set(server.fetched)
        asked = server.requests
        assert opened("blip", model="owner/name", max_tokens=3).caption([shot()]) == first
        assert server.requests == asked
        with pytest.raises(InputError, match="is neither a folder here nor a model on the"):
            opened("blip", model="owner/other")
    with pytest.raises(InputError, match="neither a folder here nor a hub id"):
        opened("blip", model="no such thing")
