"""Opening a single-file checkpoint: every weight in its place, or a sentence that says why not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lora_diffusion.errors import InputError
from lora_diffusion.families import detect, load_base
from lora_diffusion.formats.header import read_header
from tests.lora_diffusion.families.checks import message_of, same
from tests.lora_diffusion.families.sd15_models import Models

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."
SD2_TEXT = "cond_stage_model.model."

Tensors = dict[str, Tensor]
Save = Callable[..., Path]

ONE = torch.zeros(1, 1)
PROJ_IN = UNET + "input_blocks.1.1.proj_in.weight"


def conv_in(channels: int) -> Tensors:
    return {UNET + "input_blocks.0.0.weight": torch.zeros(2, channels, 3, 3)}


pytestmark = pytest.mark.usefixtures("no_network")


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_every_weight_arrives(
    tensors: Tensors, models: Models, checkpoint: Save, words: Path, stored: torch.dtype
) -> None:
    base = load_base(checkpoint(tensors, dtype=stored), tokenizer=words)
    for part, model in {**base.parts, "vae": base.vae}.items():
        found = model.state_dict()
        for name, tensor in models.parts()[part].state_dict().items():
            assert torch.equal(found[name], tensor.to(stored).float()), name
    assert (base.arch, base.name, base.prediction) == ("sd15", "tiny", "epsilon")
    assert base.latent_factor == 8


def test_it_computes_what_the_folder_computes(
    tensors: Tensors, checkpoint: Save, saved: Path, words: Path
) -> None:
    one = load_base(checkpoint(tensors), tokenizer=words, clip_skip=2)
    other = load_base(saved, clip_skip=2)
    noise = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=noise)
    pixels = torch.rand(1, 3, 16, 16, generator=noise) * 2 - 1
    times = torch.tensor([3, 900])
    with torch.no_grad():
        results = [
            (
                base.predict(latents, times, base.encode_prompts(["a cat", ""])),
                base.encode_pictures(pixels).mean,
                base.decode_latents(latents),
            )
            for base in (one, other)
        ]
    for mine, theirs in zip(*results, strict=True):
        assert mine.abs().max() > 0
        assert torch.equal(mine, theirs)


def test_the_file_may_change_while_the_base_is_in_use(
    tensors: Tensors, models: Models, checkpoint: Save, words: Path
) -> None:
    path = checkpoint(tensors)
    base = load_base(path, tokenizer=words)
    with path.open("rb+") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\x7f" * (path.stat().st_size // 2))
    same(base, models)


def test_running_in_fp16_keeps_the_vae_in_fp32(
    tensors: Tensors, models: Models, checkpoint: Save, words: Path
) -> None:
    same(
        load_base(checkpoint(tensors), tokenizer=words, dtype=torch.float16), models, torch.float16
    )


def test_what_real_files_carry_besides(
    tensors: Tensors, models: Models, checkpoint: Save, words: Path
) -> None:
    for name in list(tensors):
        if name.startswith(UNET):
            flat = name.removeprefix("model.").replace(".", "")
            tensors[f"model_ema.{flat}"] = tensors[name] + 1
    tensors["model_ema.decay"] = torch.tensor(0.9999)
    tensors["alphas_cumprod"] = torch.linspace(0.9991, 0.0047, 1000)
    tensors[TEXT + "embeddings.position_ids"] = torch.zeros(1, 77)
    tensors["cond_stage_model.transformer.text_projection.weight"] = torch.ones(2, 2)
    tensors[VAE + "loss.logvar"] = torch.tensor(0.0)
    lines: list[str] = []
    same(load_base(checkpoint(tensors), tokenizer=words, on_progress=lines.append), models)
    assert any("EMA" in line for line in lines)


def test_a_text_encoder_without_its_upper_level(
    tensors: Tensors, models: Models, checkpoint: Save, words: Path
) -> None:
    for name in list(tensors):
        if name.startswith(TEXT):
            tensors[name.replace("text_model.", "")] = tensors.pop(name)
    same(load_base(checkpoint(tensors), tokenizer=words), models)


@pytest.mark.parametrize(
    ("marker", "metadata", "yaml", "prediction"),
    [
        (None, {}, None, ""),
        ("v_pred", {}, None, "v_prediction"),
        (None, {"modelspec.prediction_type": "v"}, None, "v_prediction"),
        (None, {"modelspec.prediction_type": "epsilon"}, None, "epsilon"),
        (None, {"modelspec.predict_key": "v"}, None, "v_prediction"),
        (None, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, None, "v_prediction"),
        (None, {"modelspec.architecture": "stable-diffusion-v2-512"}, None, "epsilon"),
        (None, {}, 'model:\n  params:\n    parameterization: "v"\n', "v_prediction"),
        (None, {}, "model:\n  params:\n    parameterization: eps\n", "epsilon"),
    ],
)
def test_v_prediction_markers(
    tmp_path: Path,
    marker: str | None,
    metadata: dict[str, str],
    yaml: str | None,
    prediction: str,
) -> None:
    names = conv_in(4) | ({marker: ONE} if marker else {})
    path = tmp_path / "tiny.safetensors"
    save_file(names, path, metadata=metadata)
    if yaml:
        path.with_suffix(".yaml").write_text(yaml)
    assert detect.checkpoint(read_header(path)).prediction == prediction


def test_what_the_markers_change(tensors: Tensors, checkpoint: Save, words: Path) -> None:
    tensors |= {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}  # as trainers write them
    path = checkpoint(tensors)
    base = load_base(path, tokenizer=words)
    assert base.prediction == "v_prediction"
    assert base.scheduler_config["prediction_type"] == "v_prediction"
    assert base.scheduler_config["rescale_betas_zero_snr"]
    message = message_of(path, tokenizer=words, prediction="epsilon")
    assert "says that it predicts v_prediction, and model.prediction is epsilon" in message
    assert "v_pred tensor" in message


def test_a_prediction_that_is_not_said_can_be_set(
    tensors: Tensors, checkpoint: Save, words: Path
) -> None:
    chosen = load_base(checkpoint(tensors), tokenizer=words, prediction="v_prediction")
    assert chosen.prediction == chosen.scheduler_config["prediction_type"] == "v_prediction"
    assert not chosen.scheduler_config["rescale_betas_zero_snr"]


@pytest.mark.parametrize(
    "name",
    [
        UNET + "input_blocks.0.0.bias",
        UNET + "input_blocks.1.0.out_layers.3.weight",
        UNET + "middle_block.1.transformer_blocks.0.attn2.to_v.weight",
        UNET + "output_blocks.11.1.proj_out.bias",
        VAE + "decoder.mid.attn_1.q.weight",
        VAE + "quant_conv.weight",
        VAE + "encoder.down.2.block.0.conv1.weight",
        TEXT + "encoder.layers.2.self_attn.q_proj.bias",
        TEXT + "embeddings.token_embedding.weight",
        TEXT + "final_layer_norm.weight",
    ],
)
def test_a_missing_tensor_is_an_error_and_never_random(
    tensors: Tensors, checkpoint: Save, words: Path, name: str
) -> None:
    del tensors[name]
    message = message_of(checkpoint(tensors), tokenizer=words)
    assert "lacks" in message
    assert "tiny.safetensors" in message


@pytest.mark.parametrize("part", [UNET + "output_blocks.5.", VAE + "decoder.up.1.", TEXT[:-11]])
def test_a_missing_block_is_an_error(
    tensors: Tensors, checkpoint: Save, words: Path, part: str
) -> None:
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(part)}
    assert len(kept) < len(tensors)
    message = message_of(checkpoint(kept), tokenizer=words)
    assert "lacks" in message or "has no text encoder" in message


@pytest.mark.parametrize(
    "name", [UNET + "input_blocks.1.0.adapter.weight", UNET + "input_blocks.1.2.weight"]
)
def test_an_extended_unet_is_refused(
    tensors: Tensors, checkpoint: Save, words: Path, name: str
) -> None:
    tensors[name] = torch.ones(2)
    message = message_of(checkpoint(tensors), tokenizer=words)
    assert "extended model" in message


def test_nan_is_named(tensors: Tensors, checkpoint: Save, words: Path) -> None:
    name = UNET + "middle_block.0.in_layers.2.weight"
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    message = message_of(checkpoint(tensors), tokenizer=words)
    assert "mid_block.resnets.0.conv1.weight" in message
    assert "NaN" in message


def test_quantised_weights_are_refused(tensors: Tensors, checkpoint: Save, words: Path) -> None:
    name = UNET + "input_blocks.4.1.proj_in.weight"
    tensors[name] = torch.ones(tensors[name].shape, dtype=torch.int8)
    message = message_of(checkpoint(tensors), tokenizer=words)
    assert name in message
    assert "quantised" in message


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (conv_in(9) | {"conditioner.embedders.1.model.ln_final.bias": ONE}, "9 channels"),
        (conv_in(4) | {"edm_mean": ONE}, "EDM"),
        (conv_in(4) | {"edm_vpred.sigma_max": ONE}, "EDM"),
        (
            conv_in(4)
            | {UNET + "label_emb.0.0.weight": ONE, SD2_TEXT + "ln_final.bias": ONE.clone()},
            "unCLIP",
        ),
        (conv_in(4) | {"conditioner.embedders.0.model.ln_final.bias": ONE}, "refiner"),
        (conv_in(9), "9 channels"),
        (conv_in(8), "8 channels"),
        (conv_in(5) | {PROJ_IN: ONE}, "5 channels"),
        ({"double_blocks.0.img_attn.qkv.weight": ONE}, "Flux"),
        ({UNET + "double_blocks.0.img_attn.qkv.weight": ONE}, "Flux"),
        ({UNET + "joint_blocks.0.x_block.attn.qkv.weight": ONE}, "Stable Diffusion 3"),
    ],
)
def test_other_architectures_are_named(tmp_path: Path, tensors: Tensors, says: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file(tensors, path)
    message = message_of(path)
    assert says in message
    assert "This version trains Stable Diffusion 1.x, Stable Diffusion 2.x" in message


@pytest.mark.parametrize(
    ("tensors", "arch"),
    [
        (conv_in(4), "sd15"),
        (conv_in(4) | {PROJ_IN: ONE}, "sd21"),
        (conv_in(4) | {SD2_TEXT + "ln_final.bias": ONE}, "sd21"),
        (conv_in(4) | {"conditioner.embedders.1.model.ln_final.bias": ONE}, "sdxl"),
        (conv_in(4) | {UNET + "label_emb.0.0.weight": ONE}, "sdxl"),
    ],
)
def test_architectures_are_told_by_their_names_and_shapes(
    tmp_path: Path, tensors: Tensors, arch: str
) -> None:
    path = tmp_path / "any.safetensors"
    save_file(tensors, path)
    assert detect.checkpoint(read_header(path)).arch == arch


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"], "a LoRA"),
        (["base_model.model.unet.mid_block.proj_in.lora_A.weight"], "a LoRA"),
        (["unet.mid_block.attentions.0.to_q.lora.down.weight"], "a LoRA"),
        (["lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a"], "a LoRA"),
        (["lycoris_mid_block.lokr_w1"], "a LoRA"),
        (["emb_params"], "embedding"),
        (["clip_l", "clip_g"], "embedding"),
        (["control_model.input_blocks.0.0.weight"], "ControlNet"),
        (["down_blocks.0.motion_modules.0.temporal_transformer.norm.bias"], "AnimateDiff"),
        (["encoder.conv_in.bias", "decoder.conv_in.bias", "quant_conv.bias"], "a VAE alone"),
        ([VAE + "encoder.conv_in.bias", VAE + "decoder.conv_in.bias"], "a VAE alone"),
        (["text_model.embeddings.token_embedding.weight"], "a text encoder alone"),
        (["down_blocks.0.resnets.0.conv1.bias", "time_embedding.linear_1.bias"], "the UNet of a"),
        (["input_blocks.0.0.bias", "output_blocks.0.0.bias"], "a UNet alone"),
        (["model_ema.diffusion_modelinput_blocks00bias"], "averaged (EMA)"),
        (["transformer.wte.weight"], "not a Stable Diffusion checkpoint"),
    ],
)
def test_files_that_are_no_base_are_named(tmp_path: Path, names: list[str], says: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file(dict.fromkeys(names, None) | {name: ONE.clone() for name in names}, path)
    message = message_of(path)
    assert says in message
    assert message.startswith("other.safetensors: ")


@pytest.mark.parametrize("prefix", [VAE, "cond_stage_model."])
def test_a_checkpoint_without_a_part(tensors: Tensors, checkpoint: Save, prefix: str) -> None:
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    message = message_of(checkpoint(kept))
    assert ("VAE" if prefix == VAE else "text encoder") in message
    assert "full version" in message


@pytest.mark.parametrize("kept", [0, 7, 100, 0.3, 0.99999])
def test_truncated(tensors: Tensors, checkpoint: Save, kept: float) -> None:
    path = checkpoint(tensors)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept > 1 or kept == 0 else kept * len(data))])
    message = message_of(path)
    assert message.startswith("tiny.safetensors: ")


def test_a_header_with_wrong_bytes_is_refused_or_read(tensors: Tensors, checkpoint: Save) -> None:
    """Whatever a flipped byte makes of a header, nothing but InputError comes out."""
    path = checkpoint(tensors)
    data = bytearray(path.read_bytes()[: 1 << 18])
    length = int.from_bytes(data[:8], "little")
    dice = random.Random(5)
    refused = 0
    for _ in range(100):
        place, value = dice.randrange(8 + length), dice.randrange(256)
        with path.open("rb+") as file:
            file.seek(place)
            file.write(bytes([value]))
            file.flush()
            try:
                detect.checkpoint(read_header(path))
            except InputError:
                refused += 1
            file.seek(place)
            file.write(data[place : place + 1])
    assert 20 < refused < 100
    assert detect.checkpoint(read_header(path)).arch == "sd15"
