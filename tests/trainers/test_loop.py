"""The step: accumulation, recomputed activations, precision, and losses that are not finite."""

from __future__ import annotations

import pytest
import torch

from lora_diffusion import bundled
from lora_diffusion.errors import InputError
from lora_diffusion.families import load_base
from tests.conftest import state_bytes
from tests.trainers.assembled import assemble
from trainers.layering import build_spec
from trainers.loop import Trainer
from trainers.machine import devices

SETTINGS = {
    "adapter": {"rank": 2, "neuron_dropout": 0.1},
    "optim": {"lr_unet": 1e-3, "lr_text": 1e-3, "lr_warmup_ratio": 0.0},
    "data": {"folder": "bundled:demo_character", "trigger": "sks", "buckets": False},
    "model": {"precision": "fp32", "device": "cpu"},
    "schedule": {"steps": 3, "batch_size": 4},
}


def make_trainer(**changes) -> Trainer:
    spec = build_spec([SETTINGS, changes])
    base = load_base(bundled.resolve("bundled:demo_base"), dtype=devices.choose(spec.model).dtype)
    trainer = assemble(spec, 3, base)
    trainer.set_training()
    return trainer


def adapter_after(trainer: Trainer, steps: int = 3) -> list[torch.Tensor]:
    for step in range(steps):
        trainer.step(step)
    return [p.detach().clone() for p in trainer.handle.parameters()]


@pytest.fixture(scope="module")
def plain() -> list[torch.Tensor]:
    return adapter_after(make_trainer(adapter={"neuron_dropout": 0.0}))


def close(one: list[torch.Tensor], other: list[torch.Tensor], tolerance: float) -> bool:
    """Whether two adapters moved alike: the difference is small beside the distance moved."""
    moved = torch.cat([t.flatten() for t in one])
    apart = moved - torch.cat([t.flatten() for t in other])
    return float(apart.norm() / moved.norm()) < tolerance


def test_two_halves_accumulated_are_one_batch(plain):
    halves = make_trainer(
        adapter={"neuron_dropout": 0.0}, schedule={"batch_size": 2, "accumulate": 2}
    )
    assert close(plain, adapter_after(halves), 1e-3)
    other = make_trainer(adapter={"neuron_dropout": 0.0}, schedule={"seed": 1})
    assert not close(plain, adapter_after(other), 0.1)


def test_recomputed_activations_change_nothing(plain):
    for dropout in (0.0, 0.1):
        settings = {"adapter": {"neuron_dropout": dropout}}
        reference = plain if not dropout else adapter_after(make_trainer(**settings))
        settings["model"] = {"gradient_checkpointing": True}
        assert close(reference, adapter_after(make_trainer(**settings)), 1e-3)


def test_bf16_trains_fp32_factors_close_to_fp32(plain):
    trainer = make_trainer(adapter={"neuron_dropout": 0.0}, model={"precision": "bf16"})
    assert trainer.base.dtype == torch.bfloat16
    adapter = adapter_after(trainer)
    assert {t.dtype for t in adapter} == {torch.float32}
    assert close(plain, adapter, 0.2)


def test_the_base_is_not_touched():
    trainer = make_trainer()
    base = bundled.resolve("bundled:demo_base")
    adapter_after(trainer)
    trainer.handle.remove()
    fresh = load_base(base)
    for part in fresh.parts:
        assert state_bytes(trainer.base.parts[part]) == state_bytes(fresh.parts[part])


def test_an_untrained_text_encoder_is_not_needed_once_captions_are_encoded():
    trainer = make_trainer(optim={"lr_text": 0.0})
    trainer.base.free_text_encoders()
    assert all(key.part == "unet" for key in trainer.handle.layers)
    assert trainer.step(0).loss > 0


def test_the_text_encoder_learns_when_it_has_a_rate():
    trainer = make_trainer()
    adapter_after(trainer)
    for part in ("unet", "text_encoder"):
        assert all(a.up.abs().max() > 0 for _, a in trainer.handle.adapters(part))


def test_bad_losses_are_skipped_and_three_in_a_row_end_the_run(monkeypatch):
    trainer = make_trainer()
    trainer.step(0)
    before = [p.detach().clone() for p in trainer.handle.parameters()]
    loss = trainer.loss
    monkeypatch.setattr(trainer, "loss", lambda batch: loss(batch) * float("nan"))
    trainer.step(1)
    trainer.step(2)
    with pytest.raises(InputError, match=r"3 times.*lr_unet"):
        trainer.step(3)
    for old, new in zip(before, trainer.handle.parameters(), strict=True):
        assert torch.equal(old, new)


def test_a_gradient_that_is_not_finite_changes_nothing(monkeypatch):
    trainer = make_trainer(optim={"ema_decay": 0.9, "max_norm": 0.5})
    trainer.step(0)
    before = [p.detach().clone() for p in trainer.handle.parameters()]
    average = {name: value.clone() for name, value in trainer.shown.average.items()}
    backward = trainer.accelerator.backward

    def overflow(loss):
        backward(loss)
        next(iter(trainer.handle.parameters())).grad.fill_(float("inf"))

    monkeypatch.setattr(trainer.accelerator, "backward", overflow)
    trainer.step(1)
    for old, new in zip(before, trainer.handle.parameters(), strict=True):
        assert torch.equal(old, new)
    assert all(torch.equal(average[n], v) for n, v in trainer.shown.average.items())


def test_a_good_step_between_bad_ones_goes_on(monkeypatch):
    trainer = make_trainer()
    loss = trainer.loss
    for step, factor in enumerate([float("inf"), 1.0, float("nan"), float("nan"), 1.0]):
        monkeypatch.setattr(trainer, "loss", lambda batch, f=factor: loss(batch) * f)
        trainer.step(step)
    assert all(torch.isfinite(p).all() for p in trainer.handle.parameters())
