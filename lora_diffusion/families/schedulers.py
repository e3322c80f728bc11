"""Noise schedules as objects: samplers that draw, and the noiser that training adds noise with.

diffusers' own scheduler classes, built from facts about the base alone: its betas, its number of
timesteps, and what its network predicts. Whatever else a base's scheduler configuration says
(clipping, thresholding, somebody's favourite solver) belongs to the pipeline it was saved with
and is left out, so that the same sampler name means the same numbers on every base.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import Prediction

# The base's own facts, by the names that every diffusers scheduler gives them.
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
_ZERO_SNR = "rescale_betas_zero_snr"
_SPACING = "timestep_spacing"

# Sampler name -> class in diffusers, and the settings that make it what its name promises.
# `leading` with an offset of 1 is what Stable Diffusion's DDIM has been run with from the start;
# the sigma samplers default to `linspace`, as in k-diffusion.
_SAMPLERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": (
        "DDIMScheduler",
        {"clip_sample": False, "set_alpha_to_one": False, _SPACING: "leading"},
    ),
    "euler": ("EulerDiscreteScheduler", {_SPACING: "linspace"}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {_SPACING: "linspace"}),
    "dpm++": (
        "DPMSolverMultistepScheduler",
        {
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "use_karras_sigmas": True,
            _SPACING: "linspace",
        },
    ),
}

SAMPLERS = tuple(_SAMPLERS)


def make_sampler(name: str, scheduler_config: Mapping[str, Any], prediction: Prediction) -> Any:
    """A fresh diffusers scheduler that draws pictures.

    Args:
        name: one of `SAMPLERS`. `dpm++` is DPM-Solver++ (2M) with Karras sigmas.
        scheduler_config: the base's; only its noise schedule is used.
        prediction: what the network puts out; overrides what the configuration says.

    Raises:
        InputError: an unknown name, or a configuration that diffusers cannot build.
    """
    if name not in _SAMPLERS:
        raise InputError(
            f"There is no sampler '{printable(name, 40)}'. Use one of {', '.join(SAMPLERS)}."
        )
    class_name, settings = _SAMPLERS[name]
    merged = {**settings, "steps_offset": 1, **_schedule(scheduler_config)}
    if scheduler_config.get(_ZERO_SNR) or scheduler_config.get(_SPACING) == "trailing":
        # With no signal at the last timestep, sampling has to begin there (Lin et al. 2023,
        # arXiv:2305.08891, section 3.3).
        merged[_SPACING] = "trailing"
    return _build(class_name, merged, prediction)


def make_noiser(scheduler_config: Mapping[str, Any], prediction: Prediction) -> Any:
    """A `DDPMScheduler` for training: `alphas_cumprod`, `add_noise`, `get_velocity`.

    Raises:
        InputError: a configuration that diffusers cannot build.
    """
    return _build(
        "DDPMScheduler", {"clip_sample": False, **_schedule(scheduler_config)}, prediction
    )


def _schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a scheduler configuration that describes the base's noise schedule."""
    names = (*_BETAS, _ZERO_SNR)
    return {name: config[name] for name in names if config.get(name) is not None}


def _build(class_name: str, settings: Mapping[str, Any], prediction: Prediction) -> Any:
    import diffusers

    if prediction not in get_args(Prediction):
        raise InputError(
            f"The prediction type '{printable(prediction, 40)}' is not supported. "
            f"Use one of {', '.join(get_args(Prediction))}."
        )
    try:
        return getattr(diffusers, class_name)(**settings, prediction_type=prediction)
    except (NotImplementedError, RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            "The base's scheduler_config.json describes a noise schedule that cannot be built "
            f"({printable(error)}). Take the file from the original model."
        ) from error
