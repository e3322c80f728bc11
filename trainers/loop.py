"""One training step, readable aloud: batch -> noised -> prediction -> loss -> update.

All that is random in a step is a function of (seed, place of the picture in the run); nothing
here draws from or moves global random state.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import Conditioning, DiffusionBase, PictureSize
from lora_diffusion.injection import AdapterHandle
from lora_diffusion.randomness import normal
from trainers.averaging import ShownWeights
from trainers.data.dataset import Dataset
from trainers.data.order import Order
from trainers.devices import peak_bytes
from trainers.diffusion import NoiseSchedule, draw_input_noise, draw_noise, draw_timestep
from trainers.lr_schedule import lr_factor
from trainers.objective import (
    batch_loss,
    check,
    errors,
    mask_weights,
    picture_losses,
    picture_weights,
)
from trainers.optim import limit_norms, set_lr, shown_lr
from trainers.spec import JobSpec

_MAX_BAD_STEPS = 3
_MAX_NAMED = 8


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's input.

    Attributes:
        latents: clean, in the UNet's space, `[b, c, h/f, w/f]`.
        noise: what the target is made of, of the same shape.
        input_noise: what the input is noised with; the same unless it is perturbed.
        timesteps: `[b]`.
        captions: one each.
        sizes: of the pictures before cropping, one each.
        is_class: whether a picture is there for prior preservation, `[b]`.
        weight: of each picture in the loss, `[b]`.
        mask: of each place in the loss, in [0, 1], `[b, 1, h/f, w/f]`; None counts all alike.
        share: of a full batch; less for what is left of a bucket.
    """

    latents: Tensor
    noise: Tensor
    input_noise: Tensor
    timesteps: Tensor
    captions: Sequence[str]
    sizes: Sequence[PictureSize]
    is_class: Tensor
    weight: Tensor
    mask: Tensor | None
    share: float


@dataclass(frozen=True)
class StepResult:
    """One step's outcome; `step` counts the finished ones, from 1.

    `skipped` names the pictures of a step that was left out because it was not finite.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float
    peak_bytes: int
    skipped: tuple[str, ...] = ()


class Trainer:
    """The mutable middle of a run: adapter, optimizer, and the step that changes them."""

    def __init__(
        self,
        spec: JobSpec,
        total_steps: int,
        base: DiffusionBase,
        handle: AdapterHandle,
        dataset: Dataset,
        order: Order,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer,
        cached_prompts: Mapping[str, Conditioning] | None,
    ) -> None:
        self.spec = spec
        self.total_steps = total_steps
        self.base = base
        self.handle = handle
        self.dataset = dataset
        self.order = order
        self.accelerator = accelerator
        self.optimizer = accelerator.prepare(optimizer)
        self.shown = ShownWeights(handle, optimizer, spec.optim.ema_decay)
        self.cached_prompts = cached_prompts
        self.schedule = NoiseSchedule(base)
        check(spec.objective, base.prediction, len(self.schedule))
        self._parameters = [p for g in optimizer.param_groups for p in g["params"]]
        self._bad_steps = 0

    def set_training(self) -> None:
        """Put the models into training mode, which is what dropout looks at."""
        for part in self.base.parts.values():
            part.train()

    def step(self, step: int) -> StepResult:
        """Do step number `step` (from 0).

        Raises:
            InputError: the loss was not finite three times in a row. The adapter is then what it
                was before.
        """
        began = time.perf_counter()
        spec = self.spec.schedule
        set_lr(self.optimizer, lr_factor(self.spec.optim, step, self.total_steps))
        losses: list[float] = []
        grad_norm = 0.0
        for micro in range(step * spec.accumulate, (step + 1) * spec.accumulate):
            self.handle.clock.set(spec.seed, micro)
            batch = self.batch(micro)
            with self.accelerator.accumulate(self.base.unet), self.accelerator.autocast():
                loss = self.loss(batch)
                losses.append(loss.item())
                self.accelerator.backward(loss * batch.share)
                if self.accelerator.sync_gradients:
                    grad_norm = self._update(step, all(map(_finite, losses)))
        return StepResult(
            step=step + 1,
            loss=sum(losses) / len(losses),
            lr=shown_lr(self.optimizer),
            grad_norm=grad_norm,
            seconds=time.perf_counter() - began,
            peak_bytes=peak_bytes(self.base.device),
            skipped=self._pictures_of(step) if self._bad_steps else (),
        )

    def _pictures_of(self, step: int) -> tuple[str, ...]:
        micros = range(
            step * self.spec.schedule.accumulate, (step + 1) * self.spec.schedule.accumulate
        )
        return tuple(
            self.dataset.picture(visit).name for m in micros for visit in self.order.batch(m)
        )

    def batch(self, micro: int) -> Batch:
        """The `micro`-th batch of the run (from 0), its pictures all of one size."""
        spec = self.spec
        seed = spec.schedule.seed
        visits = self.order.batch(micro)
        shown = self.dataset.show(visits)
        latents, noises, input_noises, timesteps = [], [], [], []
        for place, moments in ((v.place, s.moments) for v, s in zip(visits, shown, strict=True)):
            latent = moments.sample(normal(tuple(moments.mean.shape), "latent", seed, place))
            latents.append(self.base.scale_latents(latent))
            noise = draw_noise(spec.objective, tuple(latent.shape[1:]), seed, place)
            noises.append(noise)
            input_noises.append(draw_input_noise(spec.objective, noise, seed, place))
            timesteps.append(draw_timestep(spec.objective, seed, place, len(self.schedule)))
        device = self.base.device
        masks = [s.mask for s in shown if s.mask is not None]
        return Batch(
            latents=torch.cat(latents).to(device),
            noise=torch.stack(noises).to(device),
            input_noise=torch.stack(input_noises).to(device),
            timesteps=torch.tensor(timesteps, device=device),
            captions=[s.caption for s in shown],
            sizes=[s.size for s in shown],
            is_class=torch.tensor([v.is_class for v in visits], device=device),
            weight=torch.tensor([s.weight for s in shown], device=device),
            mask=torch.stack(masks).to(device).float() / 255 if masks else None,
            share=len(visits) / spec.schedule.batch_size,
        )

    def loss(self, batch: Batch) -> Tensor:
        """The weighted loss of a batch, a scalar in fp32."""
        noisy = self.schedule.noised(batch.latents, batch.input_noise, batch.timesteps)
        target = self.schedule.target(batch.latents, batch.noise, batch.timesteps)
        prompts = self.base.with_sizes(self._prompts(batch.captions), batch.sizes)
        prediction = self.base.predict(noisy, batch.timesteps, prompts)
        snr = self.schedule.snr(batch.timesteps)
        shares = batch.timesteps / len(self.schedule)
        off = errors(self.spec.objective, prediction, target, shares, snr)
        shown = None
        if batch.mask is not None:
            shown = mask_weights(batch.mask, self.spec.data.unmasked_weight)
        weights = picture_weights(self.spec.objective, batch.is_class, snr, self.base.prediction)
        return batch_loss(picture_losses(off, shown), weights * batch.weight)

    def _prompts(self, captions: Sequence[str]) -> Conditioning:
        if self.cached_prompts is None:
            return self.base.encode_prompts(captions)
        rows = [self.cached_prompts[caption] for caption in captions]
        return Conditioning.cat(rows).to(self.base.device)

    def _update(self, step: int, finite: bool) -> float:
        """Clip, step and clear; a batch whose loss or gradient is not finite is left out."""
        optim = self.spec.optim
        norm = 0.0
        if finite:
            limit = float("inf") if optim.clip_norm is None else optim.clip_norm
            norm = float(self.accelerator.clip_grad_norm_(self._parameters, limit))
            # in fp16 the scaler leaves such a step out by itself and lowers its scale
            finite = _finite(norm) or self.accelerator.scaler is not None
        if not finite:
            self.optimizer.zero_grad()
            self._bad_steps += 1
            if self._bad_steps >= _MAX_BAD_STEPS:
                pictures = ", ".join(map(printable, self._pictures_of(step)[:_MAX_NAMED]))
                raise InputError(
                    f"The loss was not a finite number {_MAX_BAD_STEPS} times in a row, the last "
                    f"time with {pictures}. Lower optim.lr_unet, or use --model.precision fp32 "
                    "or bf16. The adapter as it was before is kept."
                )
            return 0.0
        self._bad_steps = 0
        self.optimizer.step()
        self.optimizer.zero_grad()
        if optim.max_norm is not None:
            limit_norms(self.handle, optim.max_norm)
        self.shown.follow(step)
        return norm


def _finite(value: float) -> bool:
    return value - value == 0
