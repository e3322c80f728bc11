"""The loss of one batch."""

from __future__ import annotations

import torch
from torch import Tensor

from lora_diffusion.errors import InputError
from lora_diffusion.families.base import Prediction
from trainers.spec import ObjectiveSpec


def check(spec: ObjectiveSpec, predicts: Prediction, timesteps: int) -> None:
    """Raise `InputError` where the settings do not fit a base of so many timesteps."""
    if spec.v_like_epsilon and predicts != "v_prediction":
        raise InputError(
            "objective.v_like_epsilon is for v-prediction bases, and this one predicts noise. "
            "Leave it out."
        )
    if max(spec.timestep_min + 1, spec.timestep_max or 1) > timesteps:
        raise InputError(
            f"objective.timestep_min and objective.timestep_max: this base has {timesteps} "
            f"timesteps. Stay below {timesteps}, and at most at {timesteps}."
        )


def errors(
    spec: ObjectiveSpec, prediction: Tensor, target: Tensor, timesteps: Tensor, snr: Tensor
) -> Tensor:
    """How far each value is off, `[b, c, h, w]`, in fp32: squared, or pseudo-Huber.

    prediction, target: `[b, c, h, w]`; timesteps: as shares of all, 0 .. 1, `[b]`; snr: `[b]`.
    """
    difference = prediction.float() - target.float()
    if spec.kind == "huber":
        return pseudo_huber(difference, huber_width(spec, timesteps, snr).view(-1, 1, 1, 1))
    return difference.square()


def pseudo_huber(difference: Tensor, width: Tensor) -> Tensor:
    """2 c (sqrt(d^2 + c^2) - c) for the width c: d^2 where d is small, 2 c |d| where it is large.

    Source: Khrapov et al., "Scheduled Pseudo-Huber Loss" (arXiv:2403.16728), there
    without the factor 2 c, which makes small errors weigh as in the squared error.
    """
    return 2 * width * ((difference.square() + width.square()).sqrt() - width)


def huber_width(spec: ObjectiveSpec, timesteps: Tensor, snr: Tensor) -> Tensor:
    """The width c at each picture's timestep, `[b]` (arXiv:2403.16728).

    With c0 = `huber_width`: constant c0; exponential c0^(t / T); snr
    (1 - c0) / (1 + sigma)^2 + c0 with sigma = 1 / sqrt(snr).

    timesteps: t / T, 0 .. 1, `[b]`; snr: `[b]`.
    """
    least = spec.huber_width
    assert least is not None
    if spec.huber_schedule == "exponential":
        return least**timesteps
    if spec.huber_schedule == "snr":
        root = snr.sqrt()  # (1 + 1 / root)^-2 = (root / (1 + root))^2, at no signal too
        return (1 - least) * (root / (1 + root)).square() + least
    return torch.full_like(timesteps, least)


def picture_losses(errors: Tensor, pixel_weights: Tensor | None = None) -> Tensor:
    """Mean error of each picture, `[b]` (arXiv:2006.11239, eq. 14).

    Args:
        errors: `[b, c, h, w]`.
        pixel_weights: of each place, `[b, 1, h, w]`; all 1 is the plain mean.
    """
    if pixel_weights is not None:
        errors = errors * pixel_weights.to(errors.dtype)
    return errors.mean(dim=(1, 2, 3))


def mask_weights(mask: Tensor, floor: float) -> Tensor:
    """Pixel weights w / mean(w) of each picture, w = floor + (1 - floor) mask, `[b, 1, h, w]`.

    With them a picture's loss is sum(w e) / (c sum(w)): the mean over the mask's area, so that a
    small subject weighs as much as a large one. Where a mask shows nothing at all they are 0.

    mask: `[b, 1, h, w]` in [0, 1]; floor: weight of what it leaves out.
    """
    weights = floor + (1 - floor) * mask
    area = weights.mean(dim=(1, 2, 3), keepdim=True)
    return weights / area.clamp(min=torch.finfo(area.dtype).tiny)


def picture_weights(
    spec: ObjectiveSpec, is_class: Tensor, snr: Tensor, predicts: Prediction
) -> Tensor:
    """Weight of each picture, `[b]`.

    DreamBooth (arXiv:2208.12242, eq. 2) weighs class pictures with lambda = `prior_weight`.

    is_class: bool `[b]`; snr: `[b]`.
    """
    weights = is_class.float() * spec.prior_weight + (~is_class).float()
    return weights * timestep_weights(spec, snr, predicts)


def timestep_weights(spec: ObjectiveSpec, snr: Tensor, predicts: Prediction) -> Tensor:
    """Weight of each picture by the signal-to-noise ratio at its timestep, `[b]`.

    An error of the noise is snr times one of the picture, and an error of v is snr + 1 times one
    of the picture (Salimans & Ho, arXiv:2202.00512, section 4). So a weight w of the noise's error
    is w * snr / (snr + 1) of v's.

    - even: 1, whichever is predicted;
    - min-SNR (Hang et al., arXiv:2303.09556, section 3.4): w = min(snr, gamma) / snr;
    - debiased estimation (Yu et al., arXiv:2310.08442): w = 1 / sqrt(snr);
    - v like epsilon: w = 1.

    snr: `[b]`.
    """
    tiny = torch.finfo(snr.dtype).tiny
    of_noise = snr.clamp_min(tiny) if predicts == "epsilon" else snr + 1
    if spec.min_snr_gamma is not None:
        return snr.clamp(max=spec.min_snr_gamma) / of_noise
    if spec.debiased:
        return snr.sqrt() / of_noise
    if spec.v_like_epsilon:
        return snr / of_noise
    return torch.ones_like(snr)


def batch_loss(losses: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over the batch; the weights are not normalised away."""
    return (losses * weights).mean()
