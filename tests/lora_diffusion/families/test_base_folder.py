"""Opening a diffusers folder: equal to what was saved, or a sentence that says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_diffusion.families import load_base
from tests.lora_diffusion.families.checks import message_of, same
from tests.lora_diffusion.families.sd15_models import Models, save_folder, write_json

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"

pytestmark = pytest.mark.usefixtures("no_network")


def edit(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_json(path: Path, **values: object) -> None:
    write_json(path, json.loads(path.read_text()) | values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_weight_arrives(saved: Path, models: Models, dtype: torch.dtype) -> None:
    base = load_base(saved, dtype=dtype)
    same(base, models, dtype)
    assert (base.arch, base.name, base.prediction) == ("sd15", "tiny", "epsilon")
    assert not any(
        p.requires_grad for m in (*base.parts.values(), base.vae) for p in m.parameters()
    )
    assert not any(m.training for m in (*base.parts.values(), base.vae))


def test_fp16_variant_files_open_where_there_is_nothing_else(
    models: Models, tmp_path: Path
) -> None:
    lines: list[str] = []
    base = load_base(save_folder(models, tmp_path, variant="fp16"), on_progress=lines.append)
    same(base, models)
    assert any("fp16" in line for line in lines)


def test_full_precision_goes_before_a_variant(folder: Path, models: Models) -> None:
    for part in ("unet", "vae"):
        name = "diffusion_pytorch_model"
        wrong = {n: t + 1 for n, t in load_file(folder / part / f"{name}.safetensors").items()}
        save_file(wrong, folder / part / f"{name}.fp16.safetensors", metadata={"format": "pt"})
    same(load_base(folder), models)


def test_shards_open(models: Models, tmp_path: Path) -> None:
    save_folder(models, tmp_path)
    (tmp_path / UNET).unlink()
    (tmp_path / TEXT).unlink()
    models.unet.save_pretrained(tmp_path / "unet", max_shard_size="3MB")
    models.text.save_pretrained(tmp_path / "text_encoder", max_shard_size="200KB")
    for part in ("unet", "text_encoder"):
        assert len(list((tmp_path / part).glob("*.safetensors"))) > 1
    same(load_base(tmp_path), models)
    shard = sorted((tmp_path / "unet").glob("*.safetensors"))[0]
    shard.unlink()
    assert f"lacks unet/{shard.name}" in message_of(tmp_path)


def test_the_vae_of_older_diffusers_opens(folder: Path, models: Models) -> None:
    """Before 0.17 its attention was called query, key, value, proj_attn."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            for new, former in old.items():
                if f".attentions.0.{new}." in name:
                    tensors[name.replace(f".{new}.", f".{former}.")] = tensors.pop(name)

    edit(folder / VAE, rename)
    assert any(".query." in name for name in load_file(folder / VAE))
    same(load_base(folder), models)


def test_the_text_encoder_of_older_transformers_opens(folder: Path, models: Models) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            bare = name.removeprefix("text_model.")
            tensors["text_model." + bare] = tensors.pop(name)
        tensors["text_model.embeddings.position_ids"] = torch.zeros(1, 77)  # broken, as in some

    edit(folder / TEXT, rename)
    base = load_base(folder)
    same(base, models)
    encoder = base.parts["text_encoder"]
    ids = torch.arange(77)[None]
    with torch.no_grad():
        assert torch.equal(encoder(ids).last_hidden_state, models.text(ids).last_hidden_state)


def test_everything_missing_is_named_at_once(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()
    (folder / VAE).unlink()
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "scheduler" / "scheduler_config.json").unlink()
    message = message_of(folder)
    assert "unet/config.json" in message
    assert VAE in message
    assert "tokenizer/vocab.json" in message
    assert "scheduler/scheduler_config.json" in message
    assert "text_encoder" not in message


@pytest.mark.parametrize("weights", [UNET, VAE, TEXT])
def test_pickles_are_refused_by_name(folder: Path, weights: str) -> None:
    pickled = (folder / weights).with_suffix(".bin")
    (folder / weights).rename(pickled)
    message = message_of(folder)
    assert f"{pickled.parent.name}/{pickled.name}" in message
    assert "pickle" in message
    assert ".safetensors version" in message


@pytest.mark.parametrize("weights", [UNET, VAE, TEXT])
@pytest.mark.parametrize("kept", [0, 4, 500, 0.5, 0.9999])
def test_truncated_weights(folder: Path, weights: str, kept: float) -> None:
    path = folder / weights
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept > 1 or kept == 0 else kept * len(data))])
    message = message_of(folder)
    assert message.startswith(f"tiny, {path.parent.name}: {path.name}: ")
    assert "again" in message


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        (UNET, "mid_block.attentions.0.proj_in.weight"),
        (UNET, "conv_out.bias"),
        (VAE, "decoder.conv_in.weight"),
        (TEXT, "encoder.layers.1.mlp.fc1.bias"),
    ],
)
def test_a_missing_tensor_is_an_error_and_never_random(
    folder: Path, weights: str, name: str
) -> None:
    def drop(tensors: dict[str, Tensor]) -> None:
        del tensors[next(n for n in tensors if n.endswith(name))]

    edit(folder / weights, drop)
    message = message_of(folder)
    assert name in message
    assert "lacks" in message


@pytest.mark.parametrize(
    ("weights", "name"), [(UNET, "conv_in.weight"), (TEXT, "final_layer_norm.weight")]
)
def test_a_tensor_of_another_shape(folder: Path, weights: str, name: str) -> None:
    def cut(tensors: dict[str, Tensor]) -> None:
        full = next(n for n in tensors if n.endswith(name))
        tensors[full] = tensors[full][1:].contiguous()

    edit(folder / weights, cut)
    assert name in message_of(folder)


@pytest.mark.parametrize(
    ("weights", "value"), [(UNET, float("inf")), (VAE, float("nan")), (TEXT, float("nan"))]
)
def test_weights_that_are_not_numbers(folder: Path, weights: str, value: float) -> None:
    spoiled = ""

    def spoil(tensors: dict[str, Tensor]) -> None:
        nonlocal spoiled
        spoiled = sorted(tensors)[3]
        tensors[spoiled].view(-1)[-1] = value

    edit(folder / weights, spoil)
    message = message_of(folder)
    assert spoiled.removeprefix("text_model.") in message
    assert "NaN or infinity" in message


def test_weights_too_large_for_fp16(folder: Path) -> None:
    edit(folder / UNET, lambda tensors: tensors["conv_in.bias"].fill_(1e6))  # type: ignore[arg-type,return-value]
    assert load_base(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert "bf16" in message_of(folder, dtype=torch.float16)


@pytest.mark.parametrize(
    ("index", "unet", "says"),
    [
        (
            {
                "_class_name": "StableDiffusionXLImg2ImgPipeline",
                "text_encoder": [None, None],
                "text_encoder_2": ["t", "X"],
            },
            {},
            "refiner",
        ),
        (
            {"_class_name": "KolorsPipeline", "text_encoder_2": ["t", "ChatGLMModel"]},
            {},
            "KolorsPipeline with another text encoder",
        ),
        ({}, {"addition_embed_type": "text_time"}, "without SDXL's second text encoder"),
        ({"text_encoder_2": ["t", "X"]}, {"in_channels": 9}, "inpainting"),
        ({}, {"class_embed_type": "projection"}, "unCLIP"),
        ({}, {"time_cond_proj_dim": 256}, "consistency"),
        ({}, {"in_channels": 9}, "inpainting"),
        ({"_class_name": "FluxPipeline", "unet": None, "transformer": ["d", "X"]}, {}, "Flux"),
        (
            {"_class_name": "StableDiffusion3Pipeline", "transformer": ["d", "X"]},
            {},
            "Stable Diffusion 3",
        ),
        ({"_class_name": "PixArtAlphaPipeline", "transformer": ["d", "X"]}, {}, "PixArtAlpha"),
        ({"_class_name": "KandinskyPipeline", "unet": ["my_code", "Mine"]}, {}, "Kandinsky"),
        ({"text_encoder": ["transformers", "T5EncoderModel"]}, {}, "another text encoder"),
    ],
)
def test_other_architectures_are_named(
    folder: Path, index: dict[str, object], unet: dict[str, object], says: str
) -> None:
    edit_json(folder / "model_index.json", **index)
    edit_json(folder / "unet" / "config.json", **unet)
    message = message_of(folder)
    assert says in message
    assert "This version trains Stable Diffusion 1.x, Stable Diffusion 2.x" in message


def test_continuous_noise_levels_are_refused(folder: Path) -> None:
    edit_json(folder / "scheduler" / "scheduler_config.json", _class_name="EDMEulerScheduler")
    assert "EDM" in message_of(folder)


def test_the_architecture_asked_for_has_to_be_there(folder: Path) -> None:
    assert load_base(folder, arch="sd15").arch == "sd15"
    message = message_of(folder, arch="sdxl")
    assert "is Stable Diffusion 1.x (sd15), and sdxl was asked for" in message


def test_prediction_is_read_and_can_be_set_where_it_is_not_said(folder: Path) -> None:
    scheduler = folder / "scheduler" / "scheduler_config.json"
    assert load_base(folder).prediction == "epsilon"
    chosen = load_base(folder, prediction="v_prediction")
    assert chosen.prediction == chosen.scheduler_config["prediction_type"] == "v_prediction"
    edit_json(scheduler, prediction_type="v_prediction")
    assert load_base(folder).prediction == "v_prediction"
    message = message_of(folder, prediction="epsilon")
    assert "says that it predicts v_prediction, and model.prediction is epsilon" in message
    assert "scheduler_config.json" in message
    edit_json(scheduler, prediction_type="sample")
    assert "'sample'" in message_of(folder)
    assert load_base(folder, prediction="epsilon").prediction == "epsilon"


@pytest.mark.parametrize(
    "config", ["model_index", "unet/config", "text_encoder/config", "scheduler/scheduler_config"]
)
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_broken_json(folder: Path, config: str, text: bytes) -> None:
    path = folder / f"{config}.json"
    path.write_bytes(text)
    assert path.name in message_of(folder)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("unet", {"block_out_channels": "wide"}),
        ("unet", {"block_out_channels": [30, 30, 60, 60]}),
        ("unet", {"down_block_types": ["NoSuchBlock"] * 4}),
        ("unet", {"attention_head_dim": 0}),
        ("vae", {"act_fn": "no such"}),
        ("text_encoder", {"vocab_size": "many"}),
        ("text_encoder", {"hidden_act": "no such"}),
        ("text_encoder", {"num_attention_heads": 3}),
    ],
)
def test_nonsense_in_the_configuration(folder: Path, part: str, values: dict[str, object]) -> None:
    edit_json(folder / part / "config.json", **values)
    assert f"tiny, {part}: cannot be loaded" in message_of(folder)


@pytest.mark.parametrize(("sample_size", "pixels"), [(8, 64), (None, 512), ([8, 8], 512)])
def test_the_native_size(folder: Path, sample_size: object, pixels: int) -> None:
    edit_json(folder / "unet" / "config.json", sample_size=sample_size)
    assert load_base(folder).native_size_px == pixels


def test_a_device_that_is_not_there(saved: Path) -> None:
    assert "model.device = toaster" in message_of(saved, device="toaster")
    if not torch.cuda.is_available():
        assert "model.device = cuda" in message_of(saved, device="cuda")


def test_a_folder_that_may_not_be_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert "cannot be read (Permission denied)" in message_of(saved)


def test_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").write_text('{"version": "1.0"')
    assert "tokenizer" in message_of(folder)


def test_a_tokenizer_of_another_model(folder: Path, tmp_path: Path) -> None:
    edit_json(folder / "text_encoder" / "config.json", vocab_size=300)

    def cut(tensors: dict[str, Tensor]) -> None:
        name = next(n for n in tensors if n.endswith("token_embedding.weight"))
        tensors[name] = tensors[name][:300].contiguous()

    edit(folder / TEXT, cut)
    assert "514 tokens" in message_of(folder)


def test_clip_skip_beyond_the_encoder(saved: Path) -> None:
    assert load_base(saved, clip_skip=3).clip_skip == 3  # type: ignore[attr-defined]
    assert "3 layers" in message_of(saved, clip_skip=4)


def test_folders_that_are_no_model(saved: Path, tmp_path: Path) -> None:
    assert "one part of a model" in message_of(saved / "unet")
    assert "no model_index.json" in message_of(tmp_path)
    (tmp_path / "dreamy.safetensors").write_bytes(b"")
    assert "dreamy.safetensors" in message_of(tmp_path)


def test_the_given_tokenizer_replaces_the_folder_s(folder: Path, words: Path) -> None:
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    assert load_base(folder, tokenizer=words).count_tokens("ab c") == 3
    assert "holds no CLIP tokenizer" in message_of(folder, tokenizer=folder)
