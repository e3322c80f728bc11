"""SD2.x and SDXL train: every adapted part moves, sizes and pooled embeddings arrive."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_diffusion import load
from lora_diffusion.families import load_base
from lora_diffusion.families.base import PictureSize
from tests.lora_diffusion.families.other_models import make_sd21, make_sdxl, save_sd21, save_sdxl
from tests.trainers.assembled import assemble
from tests.trainers.conftest import Run
from trainers.layering import build_spec
from trainers.loop import Trainer
from trainers.machine import devices
from trainers.preview import Previewer
from trainers.sample_prompts import SamplePrompt

PARTS = {"sd21": {"unet", "text_encoder"}, "sdxl": {"unet", "text_encoder", "text_encoder_2"}}
STEPS = 2


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {
        "sd21": save_sd21(make_sd21(), root / "sd21"),
        "sdxl": save_sdxl(make_sdxl(), root / "sdxl"),
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, (colour, size) in enumerate({"red": (96, 64), "green": (64, 80)}.items()):
        Image.new("RGB", size, colour).save(folder / f"{number}.png")
    return folder


def make_trainer(base_folder: Path, pictures: Path, **changes: dict[str, object]) -> Trainer:
    settings: dict[str, dict[str, object]] = {
        "adapter": {"rank": 2, "targets": "attn"},
        "optim": {"lr_unet": 1e-2, "lr_text": 1e-2, "lr_warmup_ratio": 0.0},
        "data": {"folder": str(pictures), "trigger": "sks", "caption_dropout": 0.3},
        "model": {"base": str(base_folder), "precision": "fp32", "device": "cpu"},
        "schedule": {"steps": STEPS, "batch_size": 2},
        "preview": {"sampling_steps": 1, "prompts": ["sks"]},
    }
    spec = build_spec([settings, changes])
    base = load_base(base_folder, dtype=devices.choose(spec.model).dtype)
    previewer = Previewer(base, spec, [SamplePrompt("sks")], base.native_size_px, pictures)
    trainer = assemble(spec, STEPS, base, previewer)
    trainer.set_training()
    return trainer


@pytest.mark.parametrize(
    ("arch", "with_text", "checkpointing"),
    [("sd21", True, False), ("sd21", False, True), ("sdxl", True, True), ("sdxl", False, False)],
)
def test_every_adapted_part_learns(
    bases: dict[str, Path], pictures: Path, arch: str, with_text: bool, checkpointing: bool
) -> None:
    trainer = make_trainer(
        bases[arch],
        pictures,
        optim={"lr_text": 1e-2 if with_text else 0.0},
        model={"gradient_checkpointing": checkpointing},
    )
    adapted = {key.part for key in trainer.handle.layers}
    assert adapted == (PARTS[arch] if with_text else {"unet"})
    assert set(trainer.base.parts) == adapted
    results = [trainer.step(step) for step in range(STEPS)]
    assert all(0 < result.loss < 10 for result in results)
    # SDXL reads both encoders before their last layer, so that one alone has nothing to learn.
    last = {"text_encoder": "layers.2.", "text_encoder_2": "layers.3."}
    for part in adapted:
        moved = {k: bool(a.up.abs().max() > 0) for k, a in trainer.handle.adapters(part)}
        unread = [str(k) for k, has in moved.items() if not has]
        if arch == "sdxl" and part == "text_encoder":
            assert unread
            assert all(last[part] in name for name in unread)
        else:
            assert not unread


@pytest.mark.parametrize("arch", PARTS)
def test_the_command_trains_draws_and_exports(
    bases: dict[str, Path], pictures: Path, tmp_path: Path, train: Run, arch: str
) -> None:
    done = train(
        "--model.base", bases[arch], "--data.folder", pictures, "--data.trigger", "sks",
        "--model.precision", "fp32", "--model.device", "cpu", "--model.threads", 1,
        "--adapter.rank", 2, "--adapter.targets", "attn", "--adapter.text_targets", "attn",
        "--optim.lr_unet", "1e-2", "--optim.lr_text", "1e-2", "--optim.lr_warmup_ratio", 0,
        "--schedule.steps", STEPS, "--schedule.batch_size", 2, "--preview.sampling_steps", 1,
        "--preview.every_steps", 0, "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert {"sd21": "SD2.x, v-prediction", "sdxl": "SDXL, epsilon"}[arch] in done.stderr
    base = load_base(bases[arch])
    adapter = load(tmp_path / "run" / "run.safetensors", base.shapes())
    assert adapter.arch == arch
    assert set(adapter.modules_by_part()) == PARTS[arch]
    assert all(bool(factors.up.isfinite().all()) for factors in adapter.layers.values())
    assert any(bool(factors.up.any()) for factors in adapter.layers.values())
    assert list((tmp_path / "run" / "previews").rglob("*.png"))


def test_cached_prompts_keep_their_pooled_embedding(bases: dict[str, Path], pictures: Path) -> None:
    trainer = make_trainer(bases["sdxl"], pictures, optim={"lr_text": 0.0})
    assert trainer.cached_prompts is not None
    assert all(c.pooled is not None for c in trainer.cached_prompts.values())
    assert not trainer.cached_prompts[""].context.any()
    fresh = load_base(bases["sdxl"])
    for caption, cached in trainer.cached_prompts.items():
        encoded = fresh.encode_prompts([caption], chunks=cached.context.shape[1] // 77)
        assert torch.equal(cached.context, encoded.context)
        assert torch.equal(cached.pooled, encoded.pooled)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"buckets": False},
            {
                PictureSize((64, 96), (64, 64), (0, 16)),
                PictureSize((80, 64), (64, 64), (8, 0)),
            },
        ),
        (
            {"bucket_step_px": 16},
            {
                PictureSize((64, 96), (48, 80), (3, 0)),
                PictureSize((80, 64), (64, 64), (8, 0)),
            },
        ),
    ],
)
def test_a_batch_tells_where_its_pictures_come_from(
    bases: dict[str, Path], pictures: Path, settings: dict[str, object], expected: set[PictureSize]
) -> None:
    trainer = make_trainer(
        bases["sdxl"],
        pictures,
        optim={"lr_text": 0.0},
        data={"folder": str(pictures), "trigger": "sks", **settings},
    )
    batches = [trainer.batches.make(micro) for micro in range(3)]
    assert {size for batch in batches for size in batch.sizes} == expected
    for batch in batches:
        sides = [
            (h // trainer.base.latent_factor, w // trainer.base.latent_factor)
            for h, w in (size.target_px for size in batch.sizes)
        ]
        assert {tuple(batch.latents.shape[2:])} == set(sides)
    batch = batches[0]
    loss = trainer.loss(batch).item()
    other = [PictureSize((2000, 3000), (64, 64), (0, 900))] * len(batch.sizes)
    object.__setattr__(batch, "sizes", other)
    assert abs(trainer.loss(batch).item() - loss) > 1e-7


def test_zero_terminal_snr_trains_at_its_last_timestep(pictures: Path, tmp_path: Path) -> None:
    """There the noised picture is noise alone, and v is minus the picture."""
    folder = save_sdxl(
        make_sdxl(), tmp_path / "noob", prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    trainer = make_trainer(
        folder, pictures, optim={"lr_text": 0.0}, objective={"min_snr_gamma": 5.0}
    )
    batch = trainer.batches.make(0)
    last = torch.full_like(batch.timesteps, 999)
    schedule = trainer.schedule
    noisy = schedule.noised(batch.latents, batch.noise, last)
    assert torch.allclose(noisy, batch.noise, atol=1e-3)
    assert torch.allclose(
        schedule.target(batch.latents, batch.noise, last), -batch.latents, atol=1e-3
    )
    object.__setattr__(batch, "timesteps", last)
    assert torch.isfinite(trainer.loss(batch))
