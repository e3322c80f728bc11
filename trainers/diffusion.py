"""Noising, and what the prediction is compared with.

Source: Ho et al., "Denoising Diffusion Probabilistic Models" (arXiv:2006.11239), eq. 4:
x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e; v-prediction: Salimans & Ho, "Progressive
Distillation" (arXiv:2202.00512), appendix D: v = sqrt(abar_t) e - sqrt(1 - abar_t) x_0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_diffusion.families.base import DiffusionBase
from lora_diffusion.families.schedulers import make_noiser
from lora_diffusion.randomness import generator, normal, uniform
from trainers.spec import ObjectiveSpec


class NoiseSchedule:
    """The base's training noise levels."""

    def __init__(self, base: DiffusionBase) -> None:
        noiser = make_noiser(base.scheduler_config, base.prediction)
        self.alphas_cumprod: Tensor = noiser.alphas_cumprod.double()  # abar, [timesteps]
        self.prediction = base.prediction

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t `[b, c, h, w]` of clean latents and noise of that shape, `timesteps` `[b]`."""
        signal, spread = self._levels(timesteps, clean)
        return signal * clean + spread * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet should have said, `[b, c, h, w]`."""
        if self.prediction == "epsilon":
            return noise
        signal, spread = self._levels(timesteps, clean)
        return signal * noise - spread * clean

    def snr(self, timesteps: Tensor) -> Tensor:
        """abar / (1 - abar) at `timesteps`, `[b]`, fp32."""
        abar = self.alphas_cumprod[timesteps.cpu()]
        return (abar / (1 - abar)).float().to(timesteps.device)

    def _levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod[timesteps.cpu()].view(-1, 1, 1, 1)
        return (t.to(like.device, like.dtype) for t in (abar.sqrt(), (1 - abar).sqrt()))  # type: ignore[return-value]


def draw_timestep(spec: ObjectiveSpec, seed: int, place: int, count: int) -> int:
    """A timestep in [timestep_min, timestep_max), a pure function of (seed, place).

    Uniform u in the range, moved by the shift s to s u / (1 + (s - 1) u) (Esser et al.,
    arXiv:2403.03206, eq. 23, whose s follows from the resolution).
    """
    first, end = spec.timestep_min, min(count, spec.timestep_max or count)
    shift = spec.timestep_shift
    if shift == 1:
        return int(torch.randint(first, end, (), generator=generator("timestep", seed, place)))
    drawn = uniform("timestep", seed, place)
    return first + int((end - first) * shift * drawn / (1 + (shift - 1) * drawn))


def draw_noise(spec: ObjectiveSpec, shape: tuple[int, ...], seed: int, place: int) -> Tensor:
    """Noise `[c, h, w]` of one picture; a pure function of (seed, place).

    noise_offset adds offset * N(0, 1) per channel (crosslabs.org, "Diffusion with Offset Noise"),
    which lets a model learn very dark and very light pictures.
    """
    noise = normal(shape, "noise", seed, place)
    if spec.multires_levels:
        noise = _with_coarser_levels(noise, spec, seed, place)
    if spec.noise_offset:
        shift = normal((shape[0], 1, 1), "noise offset", seed, place)
        noise = noise + spec.noise_offset * shift
    return noise


def draw_input_noise(spec: ObjectiveSpec, noise: Tensor, seed: int, place: int) -> Tensor:
    """What the input is noised with, `[c, h, w]`: the target's noise, perturbed where wanted.

    Source: Ning et al., "Input Perturbation Reduces Exposure Bias in Diffusion Models"
    (arXiv:2301.11706), DDPM-IP: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) (e + gamma xi).
    """
    if not spec.input_perturbation:
        return noise
    extra = normal(tuple(noise.shape), "input perturbation", seed, place)
    return noise + spec.input_perturbation * extra


def _with_coarser_levels(noise: Tensor, spec: ObjectiveSpec, seed: int, place: int) -> Tensor:
    """noise + sum of discount^i * upsampled coarser noise, scaled to a standard deviation of 1.

    Source: Whitaker, "Multi-Resolution Noise for Diffusion Model Training" (2023): level i is
    drawn at 1 / r^i of the size, with r drawn from 2 to 4, down to a single pixel.
    """
    channels, height, width = noise.shape
    for level in range(1, spec.multires_levels + 1):
        ratio = (2 + 2 * uniform("noise ratio", seed, place, level)) ** level
        small = (max(1, int(height / ratio)), max(1, int(width / ratio)))
        coarse = normal((1, channels, *small), "noise level", seed, place, level)
        grown = F.interpolate(coarse, (height, width), mode="bilinear")[0]
        noise = noise + spec.multires_discount**level * grown
        if small == (1, 1):
            break
    return noise / noise.std()
