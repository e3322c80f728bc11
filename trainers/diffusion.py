"""Noising, and what the prediction is compared with.

Source: Ho et al., "Denoising Diffusion Probabilistic Models" (arXiv:2006.11239), eq. 4:
x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e; v-prediction: Salimans & Ho, "Progressive
Distillation" (arXiv:2202.00512), appendix D: v = sqrt(abar_t) e - sqrt(1 - abar_t) x_0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lora_diffusion.families.base import DiffusionBase
from lora_diffusion.families.schedulers import make_noiser
from lora_diffusion.randomness import generator, normal


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


def draw_timestep(seed: int, place: int, count: int) -> int:
    """A timestep in [0, count), uniform; a pure function of (seed, place)."""
    return int(torch.randint(count, (), generator=generator("timestep", seed, place)))


def draw_noise(shape: tuple[int, ...], seed: int, place: int, offset: float = 0.0) -> Tensor:
    """Noise `[c, h, w]` of one picture; a pure function of (seed, place).

    offset: adds offset * N(0, 1) per channel (noise offset, crosslabs.org, "Diffusion with Offset
    Noise"), which lets a model learn very dark and very light pictures.
    """
    noise = normal(shape, "noise", seed, place)
    if offset:
        noise = noise + offset * normal((shape[0], 1, 1), "noise offset", seed, place)
    return noise
