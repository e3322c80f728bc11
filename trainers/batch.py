"""What a step is given: pictures as noised latents' makings, their captions and weights.

All that is random in a batch is a function of (seed, place of the picture in the run); nothing
here draws from or moves global random state. So a batch can be made anew, in part or elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from lora_diffusion.families.base import DiffusionBase, PictureSize
from lora_diffusion.randomness import normal
from trainers.data.buckets import split_evenly
from trainers.data.dataset import Dataset
from trainers.data.order import Order, Visit
from trainers.diffusion import NoiseSchedule, draw_input_noise, draw_noise, draw_timestep
from trainers.machine.team import ALONE, Team
from trainers.spec import JobSpec


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
        places: of the pictures in the run, which name their draws.
        chunks: of 75 tokens that captions are padded to; None is as many as the longest needs.
        share: of a full batch; less for what is left of a bucket, or for a part of a batch.
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
    places: tuple[int, ...]
    chunks: int | None
    share: float

    def __len__(self) -> int:
        return len(self.captions)

    def part(self, rows: slice) -> Batch:
        """Some rows. The losses of parts, each times its share, sum up to the whole's."""
        by_row: dict[str, Any] = {
            name: getattr(self, name)[rows]
            for name in (
                "latents", "noise", "input_noise", "timesteps", "captions", "sizes", "is_class",
                "weight", "places",
            )
        }  # fmt: skip
        mask = None if self.mask is None else self.mask[rows]
        share = self.share * len(by_row["captions"]) / len(self)
        return replace(self, **by_row, mask=mask, share=share)

    def split(self, rows: int) -> list[Batch]:
        """As few and as even parts as can be, of at most so many rows."""
        ends = list(accumulate(split_evenly(len(self), rows)))
        return [self.part(slice(start, end)) for start, end in pairwise([0, *ends])]


class BatchSource(Protocol):
    """Where a step's batches come from."""

    def own(self, micro: int) -> Batch | None:
        """This process' part of the `micro`-th batch (from 0), if it has any; all of one size."""

    def names(self, micro: int) -> list[str]:
        """The names of its pictures."""


@dataclass(frozen=True, eq=False)
class Batches:
    """Makes the batches of a run from its pictures.

    Attributes:
        pads_captions: whether captions are encoded with the batch, padded to its longest.
        team: whose processes each take a part of every batch.
    """

    spec: JobSpec
    base: DiffusionBase
    dataset: Dataset
    order: Order
    pads_captions: bool
    team: Team = ALONE

    def make(self, micro: int) -> Batch:
        """The `micro`-th batch of the run (from 0), its pictures all of one size."""
        visits = self.order.batch(micro)
        return self._of(visits, visits)

    def own(self, micro: int) -> Batch | None:
        """This process' part of it, which may be none.

        The batch is drawn first and then split; who gets one more changes from batch to batch.
        """
        visits = self.order.batch(micro)
        own = visits[self.team.own(len(visits), micro)]
        return self._of(own, visits) if own else None

    def _of(self, visits: Sequence[Visit], whole: Sequence[Visit]) -> Batch:
        """Those visits of a batch that has `whole`."""
        objective, seed = self.spec.objective, self.spec.schedule.seed
        shown = self.dataset.show(visits)
        latents, noises, input_noises, timesteps = [], [], [], []
        for place, moments in ((v.place, s.moments) for v, s in zip(visits, shown, strict=True)):
            latent = moments.sample(normal(tuple(moments.mean.shape), "latent", seed, place))
            latents.append(self.base.scale_latents(latent))
            noise = draw_noise(objective, tuple(latent.shape[1:]), seed, place)
            noises.append(noise)
            input_noises.append(draw_input_noise(objective, noise, seed, place))
            timesteps.append(draw_timestep(objective, seed, place, self._timestep_count))
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
            places=tuple(v.place for v in visits),
            chunks=self._chunks(whole) if self.pads_captions else None,
            share=len(visits) / self.spec.schedule.batch_size,
        )

    @cached_property
    def _timestep_count(self) -> int:
        return len(NoiseSchedule(self.base))

    def _chunks(self, visits: Sequence[Visit]) -> int:
        return max(self.base.prompt_chunks(self.dataset.caption(visit)) for visit in visits)

    def names(self, micro: int) -> list[str]:
        """The pictures' names in the `micro`-th batch."""
        return [self.dataset.picture(visit).name for visit in self.order.batch(micro)]
