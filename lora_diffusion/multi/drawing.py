"""Pictures whose adapters differ, drawn in common batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from lora_diffusion.families.base import Conditioning, DiffusionBase
from lora_diffusion.generate import (
    BATCH_SIZE,
    EncodedPrompts,
    PictureSpec,
    StepCallback,
    batch_size,
    draw,
)
from lora_diffusion.multi.batch import Mix, PerSample, Shown


def draw_mixed(
    base: DiffusionBase,
    per_sample: PerSample,
    pictures: Sequence[PictureSpec],
    mixes: Sequence[Mix],
    *,
    on_step: StepCallback | None = None,
    at_once: int = BATCH_SIZE,
) -> list[Image.Image]:
    """Draw `pictures`, in order, each with its own adapters.

    A picture is what it would be alone. The adapters of at most `at_once` pictures are on the
    device at the same time; the others are paged in as their turn comes.

    Args:
        mixes: the adapters of each picture.
        on_step, at_once: as `generate.draw` takes them.

    Raises:
        InputError: as `PerSample.drawing` and `generate.draw`.
    """
    encoded = encode_mixed(base, per_sample, pictures, mixes)
    total = sum(picture.sampling_steps for picture in pictures)
    images: list[Image.Image] = []
    done = 0
    while len(images) < len(pictures):
        first = len(images)
        rows = slice(first, first + batch_size(pictures[first:], at_once))

        def report(step: int, _of_batch: int, before: int = done) -> None:
            if on_step is not None:
                on_step(before + step, total)

        with per_sample.drawing(mixes[rows]) as shown:
            images += draw(
                base,
                pictures[rows],
                encoded=encoded[rows],
                conductor=_Conductor(base, encoded[rows], shown),
                on_step=report,
                at_once=at_once,
            )
        done += sum(picture.sampling_steps for picture in pictures[rows])
    return images


@torch.no_grad()
def encode_mixed(
    base: DiffusionBase,
    per_sample: PerSample,
    pictures: Sequence[PictureSpec],
    mixes: Sequence[Mix],
) -> EncodedPrompts:
    """The prompts of `pictures`, each as its own adapters make it read, and so its negative.

    Prompts are encoded mix by mix, so pictures with equal mixes share a pass.

    Raises:
        InputError: as `PerSample.encoding`.
    """
    texts = [text for picture in pictures for text in (picture.prompt, picture.negative)]
    chunks = max(base.prompt_chunks(text) for text in texts)

    def at(done: float) -> EncodedPrompts:
        positive: dict[int, Conditioning] = {}
        negative: dict[int, Conditioning] = {}
        for mix, members in _equal_mixes(mixes):
            words = [pictures[i].prompt for i in members] + [pictures[i].negative for i in members]
            with per_sample.encoding(mix, done):
                both = base.encode_prompts(words, chunks=chunks)
            for row, member in enumerate(members):
                positive[member] = both[row : row + 1]
                negative[member] = both[len(members) + row : len(members) + row + 1]
        rows = range(len(pictures))
        return EncodedPrompts(
            Conditioning.cat([positive[row] for row in rows]),
            Conditioning.cat([negative[row] for row in rows]),
        )

    shares = {share for mix in mixes for _, weights in mix for share, _ in weights.steps} - {0.0}
    return replace(at(0.0), later=[(share, at(share)) for share in sorted(shares)])


def _equal_mixes(mixes: Sequence[Mix]) -> list[tuple[Mix, list[int]]]:
    """Each mix that there is, and which pictures have it."""
    found: list[tuple[Mix, list[int]]] = []
    for index, mix in enumerate(mixes):
        members = next((members for other, members in found if other == mix), None)
        if members is None:
            found.append((mix, [index]))
        else:
            members.append(index)
    return found


@dataclass(frozen=True, eq=False)
class _Conductor:
    """Leads one batch through its steps, see `generate.Conductor`."""

    base: DiffusionBase
    encoded: EncodedPrompts
    shown: Shown

    def encode(self, pictures: Sequence[PictureSpec]) -> EncodedPrompts:
        del pictures
        return self.encoded

    def direct(
        self, done: float, latent_size: tuple[int, int], regions: Mapping[str, Conditioning]
    ) -> None:
        del latent_size, regions
        self.shown.go_to(done)

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return self.base.predict(noisy, timesteps, conditioning)
