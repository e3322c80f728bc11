"""Samplers reach the data when the network is perfect; the noiser is SD1.x's schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.families.base import Prediction
from lora_diffusion.families.schedulers import SAMPLERS, make_noiser, make_sampler
from tests.lora_diffusion.families.sd15_models import SCHEDULER

pytestmark = pytest.mark.usefixtures("no_network")

ZERO_SNR = SCHEDULER | {"rescale_betas_zero_snr": True}
# DDIM ends at the least noise of the schedule, not at none: sqrt(1 - alphas_cumprod[0]).
LEFT_OVER = {"ddim": 0.03, "euler": 1e-5, "euler_a": 1e-5, "dpm++": 1e-5}


def draw(sampler: Any, noiser: Any, prediction: Prediction, target: torch.Tensor) -> torch.Tensor:
    """What the sampler makes of noise when the network knows that the only picture is `target`."""
    generator = torch.Generator().manual_seed(7)
    sampler.set_timesteps(12)
    x = torch.randn(target.shape, generator=generator) * sampler.init_noise_sigma
    for i, t in enumerate(sampler.timesteps):
        # A perfect network reads the noise off its input, so it knows what the sampler put there.
        sigmas = getattr(sampler, "sigmas", None)
        level = noiser.alphas_cumprod[int(t)] if sigmas is None else 1 / (1 + sigmas[i] ** 2)
        a, b = level.sqrt(), (1 - level).sqrt()
        noisy = sampler.scale_model_input(x, t)
        noise = (noisy - a * target) / b
        output = noise if prediction == "epsilon" else a * noise - b * target
        x = sampler.step(output, t, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("config", "prediction"),
    [(SCHEDULER, "epsilon"), (SCHEDULER, "v_prediction"), (ZERO_SNR, "v_prediction")],
)
def test_a_perfect_network_is_followed_to_the_picture(
    name: str, config: dict[str, Any], prediction: Prediction
) -> None:
    target = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4)
    sampler, noiser = make_sampler(name, config, prediction), make_noiser(config, prediction)
    drawn = draw(sampler, noiser, prediction, target)
    assert (drawn - target).abs().max() < LEFT_OVER[name] * 4  # of its standard deviation


@pytest.mark.parametrize("name", ["euler", "euler_a", "dpm++"])
def test_timesteps_tell_the_network_the_noise_that_is_there(name: str) -> None:
    sampler = make_sampler(name, SCHEDULER, "epsilon")
    sampler.set_timesteps(12)
    signal = make_noiser(SCHEDULER, "epsilon").alphas_cumprod
    for t, sigma in zip(sampler.timesteps, sampler.sigmas, strict=False):
        low, high = (
            ((1 - s) / s).sqrt() for s in signal[[max(int(t) - 1, 0), min(int(t) + 1, 999)]]
        )
        assert low <= sigma * 1.001
        assert sigma <= high * 1.001


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_drawn_twice_is_the_same(name: str) -> None:
    target = torch.zeros(1, 4, 2, 2)
    noiser = make_noiser(SCHEDULER, "epsilon")
    first, second = (
        draw(make_sampler(name, SCHEDULER, "epsilon"), noiser, "epsilon", target) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_the_prediction_asked_for_goes_before_the_configured_one() -> None:
    config = SCHEDULER | {"prediction_type": "epsilon"}
    assert make_noiser(config, "v_prediction").config.prediction_type == "v_prediction"
    assert make_sampler("ddim", config, "v_prediction").config.prediction_type == "v_prediction"


def test_the_noise_schedule_is_sd1_s() -> None:
    """alphas_cumprod of scaled-linear betas, computed here from their definition."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = torch.cumprod(1 - betas, dim=0)
    noiser = make_noiser(SCHEDULER, "epsilon")
    assert torch.allclose(noiser.alphas_cumprod.double(), expected, atol=1e-6)
    assert float(noiser.alphas_cumprod[-1]) == pytest.approx(0.00466, abs=1e-5)


def test_zero_snr_ends_without_signal_and_starts_sampling_there() -> None:
    assert float(make_noiser(ZERO_SNR, "v_prediction").alphas_cumprod[-1]) < 1e-6
    for name in SAMPLERS:
        sampler = make_sampler(name, ZERO_SNR, "v_prediction")
        sampler.set_timesteps(10)
        assert int(sampler.timesteps[0]) == 999


def test_a_pipeline_s_own_settings_stay_out() -> None:
    """What a base was saved with must not change what a sampler's name means."""
    odd = SCHEDULER | {
        "clip_sample": True,
        "thresholding": True,
        "use_karras_sigmas": True,
        "algorithm_type": "sde-dpmsolver++",
        "solver_order": 3,
    }
    for name in SAMPLERS:
        plain, other = (make_sampler(name, c, "epsilon").config for c in (SCHEDULER, odd))
        assert dict(plain) == dict(other)
    dpm = make_sampler("dpm++", SCHEDULER, "epsilon").config
    assert (dpm.algorithm_type, dpm.use_karras_sigmas) == ("dpmsolver++", True)


@pytest.mark.parametrize(
    "values",
    [{"beta_schedule": "banana"}, {"beta_start": "low"}, {"num_train_timesteps": -3}],
)
def test_a_schedule_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match="noise schedule"):
        make_noiser(SCHEDULER | values, "epsilon")


def test_an_unknown_sampler_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"heun.*ddim, euler, euler_a, dpm\+\+"):
        make_sampler("heun", SCHEDULER, "epsilon")


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(InputError, match="sample"):
        make_noiser(SCHEDULER, "sample")  # type: ignore[arg-type]
