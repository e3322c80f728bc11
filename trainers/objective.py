"""The loss of one batch."""

from __future__ import annotations

from torch import Tensor

from lora_diffusion.families.base import Prediction
from trainers.spec import ObjectiveSpec


def picture_losses(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each picture, `[b]`, in fp32 (arXiv:2006.11239, eq. 14).

    prediction, target: `[b, c, h, w]`.
    """
    return (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))


def picture_weights(
    spec: ObjectiveSpec, is_class: Tensor, snr: Tensor, predicts: Prediction
) -> Tensor:
    """Weight of each picture, `[b]`.

    DreamBooth (arXiv:2208.12242, eq. 2) weighs class pictures with lambda = `prior_weight`.
    Min-SNR (Hang et al., arXiv:2303.09556, section 3.4) weighs a picture with min(snr, gamma) / snr
    where the UNet predicts noise, and min(snr, gamma) / (snr + 1) where it predicts v.

    is_class: bool `[b]`; snr: `[b]`.
    """
    weights = is_class.float() * spec.prior_weight + (~is_class).float()
    if spec.min_snr_gamma is not None:
        capped = snr.clamp(max=spec.min_snr_gamma)
        weights = weights * (capped / snr if predicts == "epsilon" else capped / (snr + 1))
    return weights


def batch_loss(losses: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over the batch; the weights are not normalised away."""
    return (losses * weights).mean()
