"""One training step, readable aloud: batch -> noised -> prediction -> loss -> update.

All that is random in a step is a function of (seed, place of the picture in the run): see `batch`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import Conditioning, DiffusionBase
from lora_diffusion.injection import AdapterHandle
from trainers.batch import Batch, BatchSource
from trainers.diffusion import NoiseSchedule
from trainers.machine.devices import peak_bytes
from trainers.machine.memory import MEMORY_ERRORS, Ladder, is_out_of_memory, release
from trainers.machine.team import ALONE, Team
from trainers.objective import (
    batch_loss,
    check,
    errors,
    mask_weights,
    picture_losses,
    picture_weights,
)
from trainers.optim import limit_norms, set_lr, shown_lr
from trainers.optim.averaging import ShownWeights
from trainers.optim.lr_schedule import lr_factor
from trainers.spec import JobSpec

_MAX_BAD_STEPS = 3
_MAX_NAMED = 8


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
    """The mutable middle of a run: adapter, optimizer, and the step that changes them.

    Args:
        cached_prompts: captions, encoded; None encodes them in each step.
        ladder: what to do when memory runs out; None lets the error through.
        team: the processes whose parts of each batch make one step together.
    """

    def __init__(
        self,
        spec: JobSpec,
        total_steps: int,
        base: DiffusionBase,
        handle: AdapterHandle,
        batches: BatchSource,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer,
        cached_prompts: Mapping[str, Conditioning] | None,
        ladder: Ladder | None = None,
        team: Team = ALONE,
    ) -> None:
        self.spec = spec
        self.total_steps = total_steps
        self.base = base
        self.handle = handle
        self.batches = batches
        self.accelerator = accelerator
        self.optimizer = accelerator.prepare(optimizer)
        self.shown = ShownWeights(handle, optimizer, spec.optim.ema_decay)
        self.cached_prompts = cached_prompts
        self.ladder = ladder
        self.team = team
        self.schedule = NoiseSchedule(base)
        check(spec.objective, base.prediction, len(self.schedule))
        self._parameters = [p for g in optimizer.param_groups for p in g["params"]]
        self._bad_steps = 0
        # the gradients, one after another, then the loss and the share that it is of
        numel = sum(p.numel() for p in self._parameters)
        self._flat = torch.zeros(numel + 2 if team.size > 1 else 0, device=base.device)

    def set_training(self) -> None:
        """Put the models into training mode, which is what dropout looks at."""
        for part in self.base.parts.values():
            part.train()

    def step(self, step: int) -> StepResult:
        """Do step number `step` (from 0).

        Raises:
            InputError: the loss was not finite three times in a row, or memory runs out whatever
                is saved. The adapter is then what it was before.
            MemoryError, RuntimeError: memory ran out in the update itself, which may be half done.
        """
        began = time.perf_counter()
        set_lr(self.optimizer, lr_factor(self.spec.optim, step, self.total_steps))
        total, share = self._own_gradients(step)
        if self.team.size > 1:
            total, share = self._add_up_with_others(step, total, share)
        loss = total / share
        grad_norm = self._update(step, _finite(loss))
        return StepResult(
            step=step + 1,
            loss=loss,
            lr=shown_lr(self.optimizer),
            grad_norm=grad_norm,
            seconds=time.perf_counter() - began,
            peak_bytes=peak_bytes(self.base.device),
            skipped=self._pictures_of(step) if self._bad_steps else (),
        )

    def _own_gradients(self, step: int) -> tuple[float, float]:
        """As `_add_up`, in memory that suffices."""
        while True:
            try:
                return self._add_up(step)
            except MEMORY_ERRORS as error:
                if self.ladder is None or not is_out_of_memory(error):
                    raise
            # out of the error's reach, whose trace holds on to the pass
            self.optimizer.zero_grad()
            release()
            self.ladder.go_down(step)

    def _add_up(self, step: int) -> tuple[float, float]:
        """Add up the gradients of this process' parts of a step's batches.

        Returns:
            The sum of their losses, each times its share of the step, and of these shares.
        """
        micros, seed = self._micros(step), self.spec.schedule.seed
        rows = self.spec.schedule.batch_size if self.ladder is None else self.ladder.rows
        total = shares = 0.0
        for micro in micros:
            batch = self.batches.own(micro)
            for part in batch.split(rows) if batch else ():
                self.handle.clock.set(seed, micro, part.places)
                share = part.share / len(micros)
                with self.accelerator.autocast():
                    loss = self.loss(part)
                self.accelerator.backward(loss * share)
                total += loss.item() * share
                shares += share
        return total, shares

    def _add_up_with_others(self, step: int, total: float, share: float) -> tuple[float, float]:
        """Make gradients, loss and share those of all processes: one sum of one flat tensor."""
        if self.ladder is not None:
            self.ladder.meet(self.team, step)
        else:
            self.team.agree()
        flat = self._flat
        flat[-2:] = torch.tensor([total, share])
        views = torch.split(flat[:-2], [p.numel() for p in self._parameters])
        for parameter, view in zip(self._parameters, views, strict=True):
            if parameter.grad is None:  # this process had no part
                parameter.grad = torch.zeros_like(parameter)
            view.copy_(parameter.grad.flatten())
        self.team.add_up(flat)
        for parameter, view in zip(self._parameters, views, strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(view.view_as(parameter))
        total, share = flat[-2:].tolist()
        return total, share

    def _pictures_of(self, step: int) -> tuple[str, ...]:
        return tuple(name for micro in self._micros(step) for name in self.batches.names(micro))

    def _micros(self, step: int) -> range:
        """The numbers of the batches that step number `step` takes in."""
        count = self.spec.schedule.accumulate
        return range(step * count, (step + 1) * count)

    def loss(self, batch: Batch) -> Tensor:
        """The weighted loss of a batch, a scalar in fp32."""
        noisy = self.schedule.noised(batch.latents, batch.input_noise, batch.timesteps)
        target = self.schedule.target(batch.latents, batch.noise, batch.timesteps)
        prompts = self.base.with_sizes(self._prompts(batch), batch.sizes)
        prediction = self.base.predict(noisy, batch.timesteps, prompts)
        snr = self.schedule.snr(batch.timesteps)
        shares = batch.timesteps / len(self.schedule)
        off = errors(self.spec.objective, prediction, target, shares, snr)
        shown = None
        if batch.mask is not None:
            shown = mask_weights(batch.mask, self.spec.data.unmasked_weight)
        weights = picture_weights(self.spec.objective, batch.is_class, snr, self.base.prediction)
        return batch_loss(picture_losses(off, shown), weights * batch.weight)

    def _prompts(self, batch: Batch) -> Conditioning:
        if self.cached_prompts is None:
            return self.base.encode_prompts(batch.captions, chunks=batch.chunks)
        rows = [self.cached_prompts[caption] for caption in batch.captions]
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
