"""Loss of pictures on fixed noise at fixed timesteps, and how far predictions move from the base's.

Both are functions of the weights alone: the noise follows from the picture's bytes, the timesteps
from the settings, dropout is off, and no state of the run is read or changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_diffusion.families import DiffusionBase
from lora_diffusion.families.base import Conditioning, PictureSize
from lora_diffusion.families.schedulers import make_sampler
from lora_diffusion.generate import BATCH_SIZE
from lora_diffusion.randomness import normal
from trainers.diffusion import NoiseSchedule
from trainers.objective import mask_weights, picture_losses
from trainers.spec import JobSpec
from trainers.validation.watched import Watched

PATH_STEPS = 6
Encode = Callable[[Sequence[str]], Conditioning]


def grid(first: int, end: int, count: int) -> tuple[int, ...]:
    """The middles of `count` equal parts of the timesteps first .. end - 1."""
    return tuple(first + int((number + 0.5) * (end - first) / count) for number in range(count))


@dataclass(frozen=True, eq=False)
class State:
    """A point on the base's own way from noise to a picture: latent `[1, c, h, w]` and timestep."""

    latent: Tensor
    timestep: int


class Meter:
    """Measures one run's base with whatever adapters are on it as they are.

    Attributes:
        timesteps: at which pictures are measured, ascending.
    """

    def __init__(self, base: DiffusionBase, spec: JobSpec) -> None:
        self._base = base
        self._schedule = NoiseSchedule(base)
        self._unmasked_weight = spec.data.unmasked_weight
        self._at_once = 1 if spec.model.low_memory else BATCH_SIZE
        objective = spec.objective
        end = min(objective.timestep_max or len(self._schedule), len(self._schedule))
        self.timesteps = grid(objective.timestep_min, end, spec.validation.timesteps)

    @torch.no_grad()
    def losses(self, picture: Watched, caption: str, encode: Encode) -> list[float]:
        """Mean squared error at each of the timesteps, over the mask where there is one.

        Whatever the objective: weights over timesteps and the like would hide what is learned.
        """
        shape = tuple(picture.latent.shape[1:])
        noise = torch.stack(  # [timesteps, c, h, w]
            [normal(shape, "validation", picture.digest, time) for time in self.timesteps]
        )
        clean = picture.latent.expand_as(noise)
        times = torch.tensor(self.timesteps)
        noisy = self._schedule.noised(clean, noise, times)
        target = self._schedule.target(clean, noise, times)
        prediction = self._predict(noisy, times, encode([caption]), picture.size)
        weights = None
        if picture.mask is not None:
            weights = mask_weights(picture.mask[None].float() / 255, self._unmasked_weight)
        found = picture_losses((prediction - target).square(), weights)
        return [float(loss) for loss in found]

    @torch.no_grad()
    def path(self, prompt: str, number: int, side_px: int, encode: Encode) -> list[State]:
        """States on the base's way from noise number `number` to a picture of the prompt.

        DDIM (Song et al., arXiv:2010.02502) without guidance, in a few steps. The last, at which
        next to nothing is left to be decided, is left out.
        """
        base = self._base
        side = side_px // base.latent_factor
        sampler = make_sampler("ddim", base.scheduler_config, base.prediction)
        sampler.set_timesteps(PATH_STEPS)
        latent = normal((1, base.latent_channels, side, side), "validation path", number)
        latent = latent * sampler.init_noise_sigma
        size = PictureSize.whole(side_px, side_px)
        conditioning = encode([prompt])
        found = []
        for time in sampler.timesteps:
            found.append(State(latent, int(time)))
            output = self._predict(latent, time.reshape(1), conditioning, size)
            latent = sampler.step(output, time, latent, return_dict=False)[0]
        return found[:-1]

    @torch.no_grad()
    def predictions(
        self, states: Sequence[State], prompt: str, side_px: int, encode: Encode
    ) -> Tensor:
        """The UNet's output at `states`, `[states, c, h, w]`, fp32, CPU."""
        latents = torch.cat([state.latent for state in states])
        times = torch.tensor([state.timestep for state in states])
        size = PictureSize.whole(side_px, side_px)
        return self._predict(latents, times, encode([prompt]), size)

    def _predict(
        self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning, size: PictureSize
    ) -> Tensor:
        """The UNet's output `[b, c, h, w]` for one prompt and size; fp32, CPU.

        Where memory runs out, fewer go through it at once from then on.
        """
        device = self._base.device
        done: list[Tensor] = []
        while sum(map(len, done)) < len(noisy):
            first = sum(map(len, done))
            rows = slice(first, min(first + self._at_once, len(noisy)))
            count = rows.stop - rows.start
            prompts = Conditioning.cat([conditioning.to(device)] * count)
            try:
                output = self._base.predict(
                    noisy[rows].to(device),
                    timesteps[rows].to(device),
                    self._base.with_sizes(prompts, [size] * count),
                )
            except torch.OutOfMemoryError:
                if self._at_once == 1:
                    raise
                self._at_once //= 2
                continue
            done.append(output.float().cpu())
        return torch.cat(done)


def moved(ours: Sequence[Tensor], base: Sequence[Tensor]) -> list[float]:
    """How far predictions are from the base's at each state, as a share of these.

    Root mean squares over the prompts. ours, base: one `[states, c, h, w]` a prompt.
    """
    whole = torch.stack(list(base))  # [prompts, states, c, h, w]
    apart = torch.stack(list(ours)) - whole
    shares = (apart.square().sum((0, 2, 3, 4)) / whole.square().sum((0, 2, 3, 4))).sqrt()
    return [float(share) for share in shares]
