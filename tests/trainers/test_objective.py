"""Noising and the loss, against the papers' equations."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trainers.diffusion import NoiseSchedule, draw_noise, draw_timestep
from trainers.objective import batch_loss, picture_losses, picture_weights
from trainers.spec import ObjectiveSpec

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def schedule(prediction: str) -> NoiseSchedule:
    config = {**SD, "num_train_timesteps": 1000}
    return NoiseSchedule(SimpleNamespace(scheduler_config=config, prediction=prediction))


def alphas_cumprod() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def test_noising_and_targets_follow_the_equations():
    abar = alphas_cumprod()[[10, 700]].view(2, 1, 1, 1).float()
    clean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    t = torch.tensor([10, 700])
    eps, v = schedule("epsilon"), schedule("v_prediction")
    noisy = abar.sqrt() * clean + (1 - abar).sqrt() * noise
    torch.testing.assert_close(eps.noised(clean, noise, t), noisy)
    assert torch.equal(eps.target(clean, noise, t), noise)
    velocity = abar.sqrt() * noise - (1 - abar).sqrt() * clean
    torch.testing.assert_close(v.target(clean, noise, t), velocity)


def test_noising_equals_diffusers():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(num_train_timesteps=1000, prediction_type="v_prediction", **SD)
    clean, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    t = torch.tensor([0, 400, 999])
    ours = schedule("v_prediction")
    torch.testing.assert_close(ours.noised(clean, noise, t), theirs.add_noise(clean, noise, t))
    torch.testing.assert_close(ours.target(clean, noise, t), theirs.get_velocity(clean, noise, t))


def test_snr_and_min_snr_weights():
    t = torch.tensor([5, 300, 990])
    abar = alphas_cumprod()[t]
    snr = schedule("epsilon").snr(t)
    torch.testing.assert_close(snr, (abar / (1 - abar)).float())
    instance = torch.zeros(3, dtype=torch.bool)
    spec = ObjectiveSpec(min_snr_gamma=5.0)
    capped = torch.minimum(snr, torch.tensor(5.0))
    torch.testing.assert_close(picture_weights(spec, instance, snr, "epsilon"), capped / snr)
    torch.testing.assert_close(
        picture_weights(spec, instance, snr, "v_prediction"), capped / (snr + 1)
    )


def test_class_pictures_weigh_lambda():
    kinds = torch.tensor([False, True, True, False])
    spec = ObjectiveSpec(prior_weight=0.5)
    weights = picture_weights(spec, kinds, torch.ones(4), "epsilon")
    assert weights.tolist() == [1.0, 0.5, 0.5, 1.0]
    losses = picture_losses(torch.ones(4, 2, 3, 3), torch.zeros(4, 2, 3, 3))
    assert losses.tolist() == [1.0] * 4
    assert batch_loss(losses, weights).item() == pytest.approx(0.75)


def test_half_precision_predictions_are_compared_in_fp32():
    prediction = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)
    assert picture_losses(prediction, torch.zeros(1, 1, 2, 2)).item() == 90_000.0


def test_timesteps_are_uniform_and_noise_is_a_function_of_its_place():
    drawn = torch.tensor([draw_timestep(0, place, 1000) for place in range(4000)]).float()
    assert drawn.min() >= 0
    assert drawn.max() <= 999
    assert drawn.mean().item() == pytest.approx(499.5, abs=15)
    assert torch.equal(draw_noise((4, 8, 8), 1, 2), draw_noise((4, 8, 8), 1, 2))
    assert not torch.equal(draw_noise((4, 8, 8), 1, 2), draw_noise((4, 8, 8), 1, 3))


def test_noise_offset_shifts_whole_channels():
    plain = draw_noise((4, 32, 32), 0, 0)
    shift = draw_noise((4, 32, 32), 0, 0, offset=0.5) - plain
    assert shift.std(dim=(1, 2)).max() < 1e-6
    assert shift.mean(dim=(1, 2)).abs().max() > 0.05
