"""SD2.x and SDXL: both layouts open to the same model, which draws as the stock pipelines do."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lora_diffusion.families import load_base
from lora_diffusion.families.base import DiffusionBase, PictureSize
from lora_diffusion.families.measure import prediction_of
from lora_diffusion.families.schedulers import make_sampler
from lora_diffusion.generate import PictureSpec, draw
from tests.lora_diffusion.families.checks import message_of, same
from tests.lora_diffusion.families.other_models import (
    POOLED,
    WIDTH_2,
    ldm_tensors,
    make_sd21,
    make_sdxl,
    save_sd21,
    save_sdxl,
)
from tests.lora_diffusion.families.sd15_models import WIDTH, Models, save_checkpoint

pytestmark = pytest.mark.usefixtures("no_network")

ARCHS = ("sd21", "sdxl")
PICTURE = PictureSpec(
    "a red circle", seed=7, sampling_steps=3, cfg=4.0, width_px=64, height_px=48, sampler="ddim"
)


@pytest.fixture(scope="module")
def tiny() -> dict[str, Models]:
    return {"sd21": make_sd21(), "sdxl": make_sdxl()}


@pytest.fixture(scope="module")
def folders(tiny: dict[str, Models], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {
        "sd21": save_sd21(tiny["sd21"], root / "sd21"),
        "sdxl": save_sdxl(tiny["sdxl"], root / "sdxl"),
    }


@pytest.fixture
def opened(tiny: dict[str, Models], folders: dict[str, Path], tmp_path: Path) -> Any:
    """Opens a tiny checkpoint; `change` edits its tensors first."""

    def open_(arch: str, change: Any = None, **settings: Any) -> DiffusionBase:
        tensors = ldm_tensors(tiny[arch])
        if change:
            change(tensors)
        path = save_checkpoint(tensors, tmp_path / "tiny.safetensors")
        return load_base(path, tokenizer=folders[arch] / "tokenizer", **settings)

    return open_


def outputs(base: DiffusionBase) -> list[Tensor]:
    """What every part of a base computes."""
    source = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=source)
    pixels = torch.rand(1, 3, 16, 16, generator=source) * 2 - 1
    with torch.no_grad():
        prompts = base.encode_prompts(["a cat", "x" * 80])
        predicted = base.predict(latents, torch.tensor([3, 900]), prompts)
        return [
            prompts.context,
            predicted,
            base.encode_pictures(pixels).mean,
            base.decode_latents(latents),
        ]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_weight_of_a_folder_arrives(
    tiny: dict[str, Models], folders: dict[str, Path], arch: str, dtype: torch.dtype
) -> None:
    base = load_base(folders[arch], dtype=dtype)
    same(base, tiny[arch], dtype)
    assert base.arch == arch
    assert base.prediction == ("v_prediction" if arch == "sd21" else "epsilon")


@pytest.mark.parametrize("arch", ARCHS)
def test_a_checkpoint_is_the_folder_bit_for_bit(
    tiny: dict[str, Models], folders: dict[str, Path], opened: Any, arch: str
) -> None:
    one, other = load_base(folders[arch]), opened(arch)
    same(other, tiny[arch])
    for mine, theirs in zip(outputs(one), outputs(other), strict=True):
        assert mine.abs().max() > 0
        assert torch.equal(mine, theirs)
    assert other.native_size_px == {"sd21": 768, "sdxl": 1024}[arch]


def test_open_clip_s_tokenizers_pad_with_token_0(folders: dict[str, Path], opened: Any) -> None:
    for base in (opened("sd21"), load_base(folders["sd21"])):
        assert base.tokenizer.pad_token_id == 0
    for base in (opened("sdxl"), load_base(folders["sdxl"])):
        assert (base.tokenizer.pad_token_id, base.tokenizer_2.pad_token_id) == (513, 0)


def test_an_sd2_checkpoint_with_23_of_23_layers_keeps_them() -> None:
    from lora_diffusion.families.ldm_configs import open_clip_config

    prefix = "cond_stage_model.model."
    for held in (23, 24):
        shapes = {f"{prefix}transformer.resblocks.{i}.ln_1.bias": (4,) for i in range(held)}
        shapes[prefix + "token_embedding.weight"] = (514, 128)
        shapes[prefix + "transformer.resblocks.0.mlp.c_fc.weight"] = (512, 128)
        config = open_clip_config(shapes, prefix, "sd21", "text_encoder", "x")
        assert config["num_hidden_layers"] == 23


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("sd21", "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_bias"),
        ("sd21", "cond_stage_model.model.ln_final.weight"),
        ("sdxl", "conditioner.embedders.1.model.text_projection"),
        ("sdxl", "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias"),
        ("sdxl", "model.diffusion_model.label_emb.0.2.bias"),
        ("sdxl", "model.diffusion_model.middle_block.1.transformer_blocks.2.norm1.bias"),
    ],
)
def test_a_missing_tensor_is_an_error(
    tiny: dict[str, Models], folders: dict[str, Path], tmp_path: Path, arch: str, name: str
) -> None:
    tensors = ldm_tensors(tiny[arch])
    del tensors[name]
    path = save_checkpoint(tensors, tmp_path / "cut.safetensors")
    assert "lacks" in message_of(path, tokenizer=folders[arch] / "tokenizer")


@pytest.mark.parametrize(
    ("arch", "name", "says"),
    [
        ("sd21", "cond_stage_model.model.transformer.resblocks.0.extra.weight", "extra"),
        ("sdxl", "conditioner.embedders.1.model.more.weight", "more"),
        ("sdxl", "model.diffusion_model.input_blocks.4.1.adapter.weight", "extended model"),
    ],
)
def test_more_than_the_architecture_has_is_an_error(
    tiny: dict[str, Models],
    folders: dict[str, Path],
    tmp_path: Path,
    arch: str,
    name: str,
    says: str,
) -> None:
    tensors = ldm_tensors(tiny[arch]) | {name: torch.ones(2)}
    path = save_checkpoint(tensors, tmp_path / "more.safetensors")
    assert says in message_of(path, tokenizer=folders[arch] / "tokenizer")


def test_a_folder_that_lacks_sdxl_s_second_half(tiny: dict[str, Models], tmp_path: Path) -> None:
    folder = save_sdxl(tiny["sdxl"], tmp_path / "half")
    (folder / "text_encoder_2" / "model.safetensors").unlink()
    for file in (folder / "tokenizer_2").iterdir():
        file.unlink()
    message = message_of(folder)
    assert "tokenizer_2/vocab.json" in message
    assert "text_encoder_2/model.safetensors" in message


# What a base says of itself


def lines_of(arch: str, opened: Any, **settings: Any) -> tuple[DiffusionBase, str]:
    lines: list[str] = []
    base = opened(arch, on_progress=lines.append, **settings)
    return base, "\n".join(lines)


def add(*names: str) -> Any:
    return lambda tensors: tensors.update({name: torch.empty(0) for name in names})


def test_noobai_s_markers_mean_v_and_zero_terminal_snr(opened: Any) -> None:
    base, said = lines_of("sdxl", opened, change=add("v_pred", "ztsnr"))
    assert "SDXL, v-prediction, zero terminal SNR" in said
    assert base.prediction == "v_prediction"
    sampler = make_sampler("euler", base.scheduler_config, base.prediction)
    sampler.set_timesteps(4)
    assert int(sampler.timesteps[0]) == 999
    assert sampler.config.timestep_spacing == "trailing"


def test_a_noobai_folder_says_so_too(tiny: dict[str, Models], tmp_path: Path) -> None:
    settings = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    folder = save_sdxl(tiny["sdxl"], tmp_path / "noob", **settings)
    lines: list[str] = []
    base = load_base(folder, on_progress=lines.append)
    assert lines[0] == "SDXL, v-prediction, zero terminal SNR"
    assert base.scheduler_config["rescale_betas_zero_snr"]


def test_what_a_base_says_of_its_last_timestep_can_be_overridden(
    tiny: dict[str, Models], tmp_path: Path, opened: Any
) -> None:
    base, said = lines_of("sdxl", opened, prediction="v_prediction", zero_snr=True)
    assert said.startswith("SDXL, v-prediction, zero terminal SNR")
    assert base.scheduler_config["rescale_betas_zero_snr"]
    base, said = lines_of("sdxl", opened, change=add("v_pred", "ztsnr"), zero_snr=False)
    assert said.startswith("SDXL, v-prediction\n")
    assert not base.scheduler_config["rescale_betas_zero_snr"]
    folder = save_sdxl(tiny["sdxl"], tmp_path / "eps")
    message = message_of(folder, zero_snr=True)
    assert message.startswith(
        "eps: predicts noise (epsilon), which does not go with model.zero_snr"
    )
    assert load_base(folder, prediction="epsilon", zero_snr=False).prediction == "epsilon"


def test_a_folder_that_says_epsilon_is_not_taken_for_v(
    tiny: dict[str, Models], tmp_path: Path
) -> None:
    folder = save_sdxl(tiny["sdxl"], tmp_path / "eps", prediction_type="epsilon")
    message = message_of(folder, prediction="v_prediction")
    assert "says that it predicts epsilon, and model.prediction is v_prediction" in message
    assert "scheduler_config.json" in message


def test_sdxl_that_says_nothing_is_epsilon(opened: Any) -> None:
    base, said = lines_of("sdxl", opened)
    assert said.startswith("SDXL, epsilon\n")
    assert base.prediction == "epsilon"
    assert "like v-prediction" in said  # random weights don't give noise back
    for stated in ("epsilon", "v_prediction"):
        assert "like v-prediction" not in lines_of("sdxl", opened, prediction=stated)[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_sdxl_unet_that_gives_noise_back_predicts_it(
    xl: DiffusionBase, dtype: torch.dtype
) -> None:
    unet: Any = copy.deepcopy(xl.unet).to(dtype)
    assert prediction_of(unet) == "v_prediction"
    last, width = unet.up_blocks[-1].resnets[-1], unet.conv_in.out_channels
    with torch.no_grad():
        for layer in (unet.conv_in, last.conv2, last.conv_shortcut, unet.conv_out):
            layer.weight.zero_()
            layer.bias.zero_()
        for channel in range(width):  # the last block hands on what left the first convolution
            last.conv_shortcut.weight[channel, width + channel] = 1.0
        for channel in range(4):  # x and -x, because silu(x) - silu(-x) = x
            for place, sign in ((channel, 1.0), (channel + 4, -1.0)):
                unet.conv_in.weight[place, channel, 1, 1] = sign
                unet.conv_out.weight[channel, place, 1, 1] = sign
        unet.conv_norm_out.weight.fill_(1.0)
        unet.conv_norm_out.bias.zero_()
    assert prediction_of(unet) == "epsilon"


def test_sd2_that_says_nothing_is_measured_and_told(opened: Any) -> None:
    base, said = lines_of("sd21", opened)
    assert base.prediction == "v_prediction"  # random weights don't give noise back
    assert "SD2.x, v-prediction: the file does not say" in said
    assert "set model.prediction" in said
    base, said = lines_of("sd21", opened, prediction="epsilon")
    assert "does not say" not in said
    assert (base.prediction, base.native_size_px) == ("epsilon", 512)


def test_a_trained_epsilon_network_is_told_by_its_answer(demo_base: Path) -> None:
    assert prediction_of(load_base(demo_base).unet) == "epsilon"


# The same numbers as the stock pipelines


def stock(folder: Path, base: DiffusionBase, picture: PictureSpec, negative: str | None) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    is_xl = base.arch == "sdxl"
    kind = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    more = {"add_watermarker": False} if is_xl else {"safety_checker": None}
    pipeline = kind.from_pretrained(folder, local_files_only=True, **more)
    pipeline.scheduler = make_sampler(picture.sampler, base.scheduler_config, base.prediction)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        picture.prompt,
        negative_prompt=negative,
        num_inference_steps=picture.sampling_steps,
        guidance_scale=picture.cfg,
        width=picture.width_px,
        height=picture.height_px,
        generator=torch.Generator("cpu").manual_seed(picture.seed),
    ).images[0]
    return np.asarray(image, dtype=int)


@pytest.mark.parametrize(
    ("arch", "sampler", "negative"),
    [
        ("sd21", "ddim", ""),
        ("sd21", "euler", "blue"),
        ("sdxl", "ddim", ""),
        ("sdxl", "ddim", "blue"),
        ("sdxl", "euler", ""),
        ("sdxl", "dpm++", "blue"),
    ],
)
def test_the_stock_pipeline_draws_the_same_picture(
    folders: dict[str, Path], arch: str, sampler: str, negative: str
) -> None:
    base = load_base(folders[arch])
    picture = replace(PICTURE, sampler=sampler, negative=negative)
    ours = np.asarray(draw(base, [picture])[0], dtype=int)
    theirs = stock(folders[arch], base, picture, negative or None)
    assert ours.std() > 1
    assert np.abs(ours - theirs).max() <= 1  # rounding to 8 bit


def test_a_base_without_zeros_for_empty_prompts(tiny: dict[str, Models], tmp_path: Path) -> None:
    import json

    folder = save_sdxl(tiny["sdxl"], tmp_path / "plain")
    index = folder / "model_index.json"
    index.write_text(
        json.dumps(json.loads(index.read_text()) | {"force_zeros_for_empty_prompt": False})
    )
    base = load_base(folder)
    assert bool(base.encode_prompts([""]).context.any())
    ours = np.asarray(draw(base, [PICTURE])[0], dtype=int)
    assert np.abs(ours - stock(folder, base, PICTURE, None)).max() <= 1


# SDXL's prompts and sizes


@pytest.fixture(scope="module")
def xl(folders: dict[str, Path]) -> DiffusionBase:
    return load_base(folders["sdxl"])


def test_long_prompts_take_chunks_in_both_encoders(xl: DiffusionBase) -> None:
    head, tail = "a" * 75, "b" * 30
    whole = xl.encode_prompts([head + tail])
    first = xl.encode_prompts([head + " "])
    assert whole.context.shape == (1, 2 * 77, WIDTH + WIDTH_2)
    assert whole.pooled is not None
    assert first.pooled is not None
    assert whole.pooled.shape == (1, POOLED)
    assert xl.prompt_chunks(head + tail) == 2
    both = xl.encode_prompts([head + tail, "short"])
    assert both.context.shape[1] == 2 * 77
    alone = xl.encode_prompts(["short"])
    assert torch.allclose(both.context[1:, :77], alone.context, atol=1e-6)
    assert both.pooled is not None
    assert alone.pooled is not None
    assert torch.allclose(both.pooled[1:], alone.pooled, atol=1e-6)


def test_an_empty_prompt_is_zeros_and_keeps_its_shape(xl: DiffusionBase) -> None:
    some = xl.encode_prompts(["", "a cat"], chunks=2)
    assert some.pooled is not None
    assert not some.context[0].any()
    assert not some.pooled[0].any()
    assert some.context[1].any()
    assert some.pooled[1].any()
    assert some.context.shape[1] == 2 * 77


def test_clip_skip_counts_from_the_last_layer_and_starts_at_two(folders: dict[str, Path]) -> None:
    one, two, three = (
        load_base(folders["sdxl"], clip_skip=skip).encode_prompts(["a cat"]) for skip in (1, 2, 3)
    )
    assert torch.equal(one.context, two.context)
    assert not torch.allclose(two.context, three.context, atol=1e-3)
    assert "3 layers" in message_of(folders["sdxl"], clip_skip=4)


def test_sizes_change_sdxl_s_prediction_and_no_other_s(
    xl: DiffusionBase, folders: dict[str, Path]
) -> None:
    latents, times = torch.randn(1, 4, 8, 8), torch.tensor([500])
    whole = PictureSize.whole(64, 64)
    cropped = PictureSize((300, 400), (64, 64), (0, 11))
    assert cropped.ids() == (300, 400, 0, 11, 64, 64)
    with torch.no_grad():
        prompts = xl.encode_prompts(["a cat"])
        unsaid = xl.predict(latents, times, prompts)
        told = xl.predict(latents, times, xl.with_sizes(prompts, [whole]))
        other = xl.predict(latents, times, xl.with_sizes(prompts, [cropped]))
    assert torch.equal(unsaid, told)
    assert not torch.allclose(told, other, atol=1e-4)
    sd2 = load_base(folders["sd21"])
    untold = sd2.encode_prompts(["a cat"])
    assert sd2.with_sizes(untold, [whole]) is untold


def test_size_ids_stay_fp32(xl: DiffusionBase) -> None:
    sized = xl.with_sizes(xl.encode_prompts(["a cat"]), [PictureSize.whole(1023, 1025)])
    moved = sized.to(torch.device("cpu"), torch.bfloat16)
    assert moved.size_ids is not None
    assert moved.context.dtype == torch.bfloat16
    assert moved.size_ids.tolist() == [[1023, 1025, 0, 0, 1023, 1025]]
