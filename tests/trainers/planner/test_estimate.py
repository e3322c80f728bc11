"""What a run takes, from its settings and the base's configuration alone."""

from __future__ import annotations

import pytest

from lora_diffusion.errors import InputError
from lora_diffusion.families import ldm_configs
from lora_diffusion.families.outline import Outline, outline
from trainers.layering import build_spec, preset_names, read_preset
from trainers.planner.estimate import Estimate, estimate, has_gpu, size
from trainers.planner.savings import savings, with_settings
from trainers.spec import JobSpec

GB = 1e9


def published(arch: str) -> Outline:
    parts = ["unet", "vae", "text_encoder"] + (["text_encoder_2"] if arch == "sdxl" else [])
    return Outline(arch, {part: ldm_configs.shipped(arch, part) for part in parts})


def job(**settings: object) -> JobSpec:
    return with_settings(JobSpec(), {name.replace("__", "."): v for name, v in settings.items()})


def on_gpu(arch: str = "sd15", **settings: object) -> Estimate:
    return estimate(job(**settings), gpu=True, outline=published(arch))


def test_weights_are_the_published_sizes():
    # 859.5 M numbers in the UNet, 49.5 M in the VAE's decoder, bf16
    sd15 = on_gpu(adapter__text_targets="none")
    assert sd15.weights == pytest.approx(2 * (859_520_964 + 49_490_179), rel=1e-3)
    trained = on_gpu(adapter__text_targets="attn")
    assert trained.weights - sd15.weights == pytest.approx(2 * 123_060_480, rel=1e-3)  # CLIP-L
    in_fp8 = on_gpu(adapter__text_targets="none", model__fp8_base=True)
    assert sd15.weights - in_fp8.weights == 859_520_964
    sdxl = on_gpu("sdxl", adapter__text_targets="none")
    assert sdxl.weights == pytest.approx(2 * (2_567_463_684 + 49_490_199), rel=1e-3)


def test_the_adapter_holds_numbers_and_the_optimizers_state():
    plain = on_gpu(adapter__text_targets="none", adapter__rank=4)
    assert plain.adapter == 797_184 * (4 + 8)
    averaged = on_gpu(adapter__text_targets="none", adapter__rank=4, optim__ema_decay=0.99)
    assert averaged.adapter == 797_184 * (4 + 4 + 8)
    assert on_gpu("sdxl", adapter__text_targets="none", optim__kind="adamw8bit").adapter < (
        on_gpu("sdxl", adapter__text_targets="none").adapter * 0.7
    )


def test_more_pictures_and_larger_ones_take_more_in_proportion():
    one, four = (on_gpu(schedule__batch_size=n).activations for n in (1, 4))
    assert 3.5 < four / one <= 4.05
    small, large = (on_gpu(data__resolution_px=px).activations for px in (512, 1024))
    assert 3.5 < large / small < 4.5


@pytest.mark.parametrize("arch", ["sd15", "sd21", "sdxl"])
def test_checkpointing_saves_most_of_a_step(arch):
    kept = on_gpu(arch).activations
    assert on_gpu(arch, model__gradient_checkpointing=True).activations < 0.35 * kept


def test_each_phase_counts_what_is_there_then():
    full = on_gpu(data__class_prompts=("a dog",), data__class_pictures=4)
    assert set(full.phases) == {
        "encode pictures", "draw class pictures", "train", "draw previews",
    }  # fmt: skip
    assert set(on_gpu(preview__enabled=False).phases) == {"encode pictures", "train"}
    waiting = on_gpu(model__low_memory=True).phases["encode pictures"]
    assert waiting < on_gpu().phases["encode pictures"] - 2 * 850e6
    uncached = on_gpu(data__cache="off", adapter__text_targets="none")
    assert uncached.weights > on_gpu(adapter__text_targets="none").weights + 2 * 123e6


def test_on_the_cpu_everything_is_fp32_and_nothing_is_added():
    cpu = estimate(job(), gpu=False, outline=published("sd15"))
    assert cpu.overhead == 0
    assert cpu.weights == 2 * on_gpu().weights


def test_low_vram_presets_keep_their_word():
    for arch, most in (("sd15", 4 * GB), ("sd21", 4 * GB), ("sdxl", 8 * GB)):
        spec = build_spec([read_preset(f"{arch}-low-vram")])
        assert estimate(spec, gpu=True, outline=published(arch)).peak < most, arch


@pytest.mark.parametrize("name", [n for n in preset_names() if n.startswith(("sd15", "sdxl"))])
def test_savings_do_what_they_say(name):
    base = published(name.split("-")[0])
    spec = build_spec([read_preset(name)])
    peak = estimate(spec, gpu=True, outline=base).peak
    for saving in savings(spec, gpu=True, outline=base):
        spec = with_settings(spec, saving.settings)
        lower = estimate(spec, gpu=True, outline=base).peak
        assert (lower, peak - lower) == (saving.peak, saving.saved)
        assert lower < peak
        assert saving.cost and all(f"--{name}" in saving.line() for name in saving.settings)
        peak = lower


def test_a_base_is_looked_into_without_loading_it(tmp_path):
    demo = outline("bundled:demo_base")
    assert (demo.arch, demo.latent_factor, demo.native_size_px) == ("sd15", 2, 64)
    assert estimate(JobSpec(), gpu=False).peak < 0.5 * GB
    with pytest.raises(InputError, match="no such folder or file"):
        outline(str(tmp_path / "missing"))
    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"Set model\.arch"):
        outline(str(pickled))
    assert outline(str(pickled), "sdxl").native_size_px == 1024


def test_words():
    assert (size(7_440_000_000), size(43_200_000)) == ("7.4 GB", "43 MB")
    assert not has_gpu("cpu")
    assert has_gpu("cuda:1")
