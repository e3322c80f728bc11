"""How well a base, with whatever is on it, tells the noise in given pictures.

The training loss itself (Ho et al., arXiv:2006.11239, eq. 14) at fixed timesteps and with fixed
noise: a pure function of the weights, so that two compositions can be compared by a few pictures.
It needs no other model, and works on any base.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from lora_diffusion.families.base import Conditioning, DiffusionBase, PictureSize
from lora_diffusion.randomness import normal
from trainers.data.order import Visit
from trainers.data.prepare import make_dataset
from trainers.data.scan import Picture
from trainers.diffusion import NoiseSchedule
from trainers.spec import DataSpec, JobSpec

TIMESTEPS = 8
_ROWS_AT_ONCE = 16


class Denoising:
    """Pictures, encoded once, with noise and timesteps that never change.

    Attributes:
        latents: clean, in the UNet's space, one `[1, c, h/f, w/f]` a picture, on the CPU.
        captions: one a picture.
        timesteps: ascending; the middles of equal parts of the base's timesteps.
    """

    def __init__(
        self,
        base: DiffusionBase,
        pictures: Sequence[Picture],
        *,
        timesteps: int = TIMESTEPS,
        seed: int = 0,
    ) -> None:
        """Encode `pictures`, each at the base's own size.

        Raises:
            InputError: one can't be read or encoded, or is too small.
        """
        spec = JobSpec(data=DataSpec(cache="off"))
        dataset = make_dataset(base, spec, pictures, [])
        shown = dataset.show([Visit(n, False, n) for n in range(len(pictures))])
        self.base = base
        self.schedule = NoiseSchedule(base)
        self.captions = [each.caption for each in shown]
        self.latents = [base.scale_latents(each.moments.mean) for each in shown]
        self.timesteps = [
            int((part + 0.5) * len(self.schedule) / timesteps) for part in range(timesteps)
        ]
        self._sizes: list[PictureSize] = [each.size for each in shown]
        self._seed = seed

    @torch.no_grad()
    def losses(self) -> Tensor:
        """The mean squared error of every picture at every timestep, `[pictures, timesteps]`.

        fp32 on the CPU. Captions are encoded anew, since adapters may change the text encoder.
        """
        asked = sorted(set(self.captions))
        chunks = max(map(self.base.prompt_chunks, asked))
        encoded = self.base.encode_prompts(asked, chunks=chunks)
        found = torch.zeros(len(self.latents), len(self.timesteps))
        places = [(n, t) for n in range(len(self.latents)) for t in range(len(self.timesteps))]
        for _, same in groupby(places, key=lambda place: self.latents[place[0]].shape):
            for batch in _pieces(list(same)):
                told = (asked.index(self.captions[n]) for n, _ in batch)
                conditioning = self.base.with_sizes(
                    Conditioning.cat([encoded[row : row + 1] for row in told]),
                    [self._sizes[n] for n, _ in batch],
                )
                clean = torch.cat([self.latents[n] for n, _ in batch]).to(self.base.device)
                noise = torch.stack([self._noise(n, t) for n, t in batch]).to(clean)
                times = torch.tensor([self.timesteps[t] for _, t in batch], device=clean.device)
                said = self.base.predict(
                    self.schedule.noised(clean, noise, times), times, conditioning
                )
                off = said.float() - self.schedule.target(clean, noise, times).float()
                errors = off.square().mean(dim=(1, 2, 3)).cpu()  # [b]
                for (n, t), error in zip(batch, errors, strict=True):
                    found[n, t] = error
        return found

    def _noise(self, picture: int, timestep: int) -> Tensor:
        shape = tuple(self.latents[picture].shape[1:])
        return normal(shape, "denoising", self._seed, picture, timestep)


def share_explained(losses: Tensor, of_base: Tensor) -> float:
    """1 - mean over timesteps of (mean loss / the base's mean loss): 0 is the base, 1 perfect.

    Each timestep counts alike, though losses differ tenfold between them.

    losses, of_base: `[pictures, timesteps]`.
    """
    return 1 - float((losses.mean(0) / of_base.mean(0)).mean())


def _pieces(places: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    return [places[i : i + _ROWS_AT_ONCE] for i in range(0, len(places), _ROWS_AT_ONCE)]
