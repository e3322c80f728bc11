"""Noising and the loss, against the papers' equations."""

from __future__ import annotations

import itertools
import math
import tomllib
from types import SimpleNamespace

import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.randomness import normal, uniform
from trainers.diffusion import NoiseSchedule, draw_input_noise, draw_noise, draw_timestep
from trainers.layering import build_spec, to_toml
from trainers.objective import (
    batch_loss,
    check,
    errors,
    huber_width,
    mask_weights,
    picture_losses,
    picture_weights,
    timestep_weights,
)
from trainers.spec import ObjectiveSpec

PLAIN = ObjectiveSpec()
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
    losses = picture_losses(torch.ones(4, 2, 3, 3))
    assert losses.tolist() == [1.0] * 4
    assert batch_loss(losses, weights).item() == pytest.approx(0.75)


def test_half_precision_predictions_are_compared_in_fp32():
    prediction = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)
    one = torch.ones(1)
    assert errors(PLAIN, prediction, torch.zeros(1, 1, 2, 2), one, one).max().item() == 90_000.0


TIMES = torch.tensor([5, 300, 700, 990])
OBJECTIVES = {
    "mse": {},
    "min-snr": {"min_snr_gamma": 5.0},
    "debiased": {"debiased": True},
    "v-like-epsilon": {"v_like_epsilon": True},
    "huber": {"kind": "huber", "huber_width": 0.2, "huber_schedule": "constant"},
    "huber-exponential": {"kind": "huber", "huber_width": 0.2, "huber_schedule": "exponential"},
    "huber-snr": {"kind": "huber", "huber_width": 0.2, "huber_schedule": "snr"},
    "huber-debiased": {"kind": "huber", "debiased": True},
    "prior": {"prior_weight": 0.3, "min_snr_gamma": 1.0},
}


def weight_by_hand(name: str, snr: float, predicts: str) -> float:
    as_v = snr / (snr + 1) if predicts == "v_prediction" else 1.0
    if "min-snr" in name or name == "prior":
        return min(snr, 1.0 if name == "prior" else 5.0) / snr * as_v
    if "debiased" in name:
        return snr**-0.5 * as_v
    return as_v if name == "v-like-epsilon" else 1.0


def width_by_hand(name: str, t: int, sigma: float) -> float:
    if name == "huber":
        return 0.2
    if name == "huber-snr":
        return (1 - 0.2) / (1 + sigma) ** 2 + 0.2
    least = 0.1 if name == "huber-debiased" else 0.2
    return math.exp(math.log(least) * t / 1000)


@pytest.mark.parametrize(
    ("name", "predicts"),
    [
        (name, predicts)
        for name in OBJECTIVES
        for predicts in ("epsilon", "v_prediction")
        if (name, predicts) != ("v-like-epsilon", "epsilon")  # which `check` refuses
    ],
)
def test_loss_and_gradient_equal_the_formula_value_by_value(name, predicts):
    spec = ObjectiveSpec(**OBJECTIVES[name])
    source = torch.Generator().manual_seed(0)
    prediction = torch.randn(4, 2, 3, 3, generator=source, requires_grad=True)
    target = torch.randn(4, 2, 3, 3, generator=source)
    is_class = torch.tensor([False, True, False, True])

    noising = schedule(predicts)
    snr = noising.snr(TIMES)
    off = errors(spec, prediction, target, TIMES / 1000, snr)
    loss = batch_loss(picture_losses(off), picture_weights(spec, is_class, snr, predicts))
    loss.backward()

    abar = alphas_cumprod()
    total, slopes = 0.0, torch.zeros(4, 2, 3, 3, dtype=torch.float64)
    for b, t in enumerate(TIMES.tolist()):
        level = float(abar[t] / (1 - abar[t]))
        weight = weight_by_hand(name, level, predicts) / (4 * 2 * 3 * 3)
        weight *= spec.prior_weight if is_class[b] else 1.0
        for place in itertools.product(range(2), range(3), range(3)):
            d = float(prediction[b][place].detach()) - float(target[b][place])
            if spec.kind == "mse":
                value, slope = d * d, 2 * d
            else:
                c = width_by_hand(name, t, level**-0.5)
                root = math.sqrt(d * d + c * c)
                value, slope = 2 * c * (root - c), 2 * c * d / root
            total += weight * value
            slopes[b][place] = weight * slope
    assert loss.item() == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close(prediction.grad.double(), slopes, rtol=1e-4, atol=1e-7)


def test_huber_is_the_squared_error_where_small_and_linear_where_large():
    spec = ObjectiveSpec(kind="huber", huber_width=0.1, huber_schedule="constant")
    d = torch.tensor([1e-3, 100.0]).view(2, 1, 1, 1)
    share, snr = torch.full((2,), 0.5), torch.ones(2)
    small, large = errors(spec, d, torch.zeros_like(d), share, snr).flatten().tolist()
    assert small == pytest.approx(1e-6, rel=1e-2)
    assert large == pytest.approx(2 * 0.1 * 100, rel=1e-2)
    ends = torch.tensor([0.0, 1.0])
    for name, wanted in {"exponential": [1.0, 0.1], "snr": [1.0, 0.1]}.items():
        scheduled = ObjectiveSpec(kind="huber", huber_schedule=name)
        width = huber_width(scheduled, ends, torch.tensor([1e12, 0.0]))
        assert width.tolist() == pytest.approx(wanted, rel=1e-4)


def test_no_signal_at_all_gives_finite_weights():
    none = torch.zeros(1)
    for settings in ({"min_snr_gamma": 5.0}, {"debiased": True}):
        for predicts in ("epsilon", "v_prediction"):
            assert timestep_weights(ObjectiveSpec(**settings), none, predicts).isfinite().all()


def test_pixel_weights_weigh_each_place_of_all_channels():
    off = torch.arange(1.0, 17.0).view(2, 2, 2, 2)
    mask = torch.tensor([[[[0.0, 1.0], [0.5, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    first = (2 * 1 + 3 * 0.5 + 6 * 1 + 7 * 0.5) / 8
    assert picture_losses(off, mask).tolist() == pytest.approx([first, 12.5])
    assert torch.equal(picture_losses(off, torch.ones(2, 1, 2, 2)), picture_losses(off))


def drawn_timesteps(**settings) -> torch.Tensor:
    spec = ObjectiveSpec(**settings)
    return torch.tensor([draw_timestep(spec, 0, place, 1000) for place in range(4000)]).float()


def test_timesteps_are_uniform_in_their_range():
    drawn = drawn_timesteps()
    assert (drawn.min() >= 0, drawn.max() <= 999) == (True, True)
    assert drawn.mean().item() == pytest.approx(499.5, abs=15)
    narrow = drawn_timesteps(timestep_min=200, timestep_max=204)
    assert sorted(set(narrow.tolist())) == [200, 201, 202, 203]


@pytest.mark.parametrize("shift", [3.0, 0.5])
def test_a_shift_moves_the_quantiles_by_its_formula(shift):
    drawn = drawn_timesteps(timestep_shift=shift, timestep_min=100, timestep_max=900)
    assert (drawn.min() >= 100, drawn.max() <= 899) == (True, True)
    for share in (0.25, 0.5, 0.75):
        wanted = 100 + 800 * shift * share / (1 + (shift - 1) * share)
        assert drawn.quantile(share).item() == pytest.approx(wanted, abs=25)


def test_noise_is_a_function_of_its_place():
    for settings in ({}, {"noise_offset": 0.1}, {"multires_levels": 6}):
        spec = ObjectiveSpec(**settings)
        assert torch.equal(draw_noise(spec, (4, 8, 8), 1, 2), draw_noise(spec, (4, 8, 8), 1, 2))
        other = draw_noise(spec, (4, 8, 8), 1, 3)
        assert not torch.equal(draw_noise(spec, (4, 8, 8), 1, 2), other)


def test_noise_offset_shifts_whole_channels():
    plain = draw_noise(PLAIN, (4, 32, 32), 0, 0)
    shift = draw_noise(ObjectiveSpec(noise_offset=0.5), (4, 32, 32), 0, 0) - plain
    assert shift.std(dim=(1, 2)).max() < 1e-6
    assert shift.mean(dim=(1, 2)).abs().max() > 0.05


def test_multires_noise_has_unit_spread_and_the_coarse_levels_it_says():
    spec = ObjectiveSpec(multires_levels=1, multires_discount=0.5)
    noise = draw_noise(spec, (4, 32, 32), 0, 0)
    assert noise.std().item() == pytest.approx(1.0, abs=1e-5)
    plain = draw_noise(PLAIN, (4, 32, 32), 0, 0)
    # noise * k - plain = 0.5 * a bilinear enlargement of level 1, for the k that undoes the scaling
    ratio = 2 + 2 * uniform("noise ratio", 0, 0, 1)
    coarse = normal((1, 4, int(32 / ratio), int(32 / ratio)), "noise level", 0, 0, 1)
    grown = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")[0]
    by_hand = plain + 0.5 * grown
    torch.testing.assert_close(noise, by_hand / by_hand.std())
    low = ObjectiveSpec(multires_levels=10, multires_discount=0.9)
    wide = draw_noise(low, (4, 32, 32), 0, 0)
    assert wide.mean(dim=(1, 2)).abs().max() > 5 * plain.mean(dim=(1, 2)).abs().max()
    assert draw_noise(low, (4, 1, 3), 0, 0).isfinite().all()


def test_input_perturbation_adds_its_share_of_fresh_noise_to_the_input_alone():
    noise = draw_noise(PLAIN, (4, 64, 64), 0, 0)
    assert draw_input_noise(PLAIN, noise, 0, 0) is noise
    extra = draw_input_noise(ObjectiveSpec(input_perturbation=0.1), noise, 0, 0) - noise
    assert extra.std().item() == pytest.approx(0.1, rel=0.05)
    assert abs((extra * noise).mean().item()) < 0.01


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"huber_width": 0.1}, ["objective.huber_width", "huber"]),
        ({"min_snr_gamma": 5.0, "debiased": True}, ["objective.debiased", "one of them"]),
        ({"timestep_min": 10, "timestep_max": 10}, ["objective.timestep_max (10)"]),
        ({"timestep_shift": 0.0}, ["objective.timestep_shift"]),
    ],
)
def test_settings_that_do_not_belong_together_are_one_line(settings, words):
    with pytest.raises(InputError) as caught:
        build_spec([{"objective": settings}])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"v_like_epsilon": True}, "v_like_epsilon"),
        ({"timestep_min": 1000}, "timestep_min"),
        ({"timestep_max": 1001}, "1000 timesteps"),
    ],
)
def test_settings_that_do_not_fit_the_base_are_one_line(settings, word):
    with pytest.raises(InputError, match=word):
        check(ObjectiveSpec(**settings), "epsilon", 1000)
    check(ObjectiveSpec(timestep_min=999, timestep_max=1000), "epsilon", 1000)


def test_huber_takes_its_own_defaults():
    spec = build_spec([{"objective": {"kind": "huber"}}]).objective
    assert (spec.huber_width, spec.huber_schedule) == (0.1, "exponential")
    assert build_spec([tomllib.loads(to_toml(build_spec([{"objective": {"kind": "huber"}}])))])


def test_the_masked_loss_is_the_mean_over_the_masks_area():
    off = torch.rand(3, 4, 8, 6)
    mask = torch.zeros(3, 1, 8, 6)
    mask[0, :, :4], mask[1, :, 0, 0], mask[2] = 1, 0.5, 1
    plain = picture_losses(off)
    masked = picture_losses(off, mask_weights(mask, floor=0.0))
    expected = torch.stack([off[0, :, :4].mean(), off[1, :, 0, 0].mean(), plain[2]])
    torch.testing.assert_close(masked, expected)
    torch.testing.assert_close(picture_losses(off, mask_weights(mask, floor=1.0)), plain)
    weights = 0.25 + 0.75 * mask
    floored = (off * weights).sum((1, 2, 3)) / (4 * weights.sum((1, 2, 3)))
    torch.testing.assert_close(picture_losses(off, mask_weights(mask, floor=0.25)), floored)
    nothing = picture_losses(off, mask_weights(torch.zeros_like(mask), floor=0.0))
    assert torch.equal(nothing, torch.zeros(3))


def test_what_the_mask_leaves_out_has_no_gradient():
    prediction = torch.randn(1, 4, 8, 8, requires_grad=True)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :3] = 1
    picture_losses(prediction.square(), mask_weights(mask, floor=0.0)).sum().backward()
    assert prediction.grad[..., :3].abs().min() > 0
    assert prediction.grad[..., 3:].abs().max() == 0
