"""The pictures that are measured, encoded once, and the prompts they are measured with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lora_diffusion.families import DiffusionBase
from lora_diffusion.families.base import Conditioning, PictureSize
from trainers.data import prepare
from trainers.data.captions import without_trigger
from trainers.data.dataset import VisitRules
from trainers.data.order import Visit
from trainers.data.scan import Picture
from trainers.spec import JobSpec
from trainers.teller import Teller
from trainers.validation.choice import evenly, of_folder

Sort = Literal["held_out", "trained", "class"]
_LEAK_PROMPTS = 4
_OTHER_CAPTIONS = 2


@dataclass(frozen=True, eq=False)
class Watched:
    """One picture that is measured.

    Attributes:
        name: of its file within the dataset.
        digest: SHA-256 of the file, which names its noise.
        sort: whether it is trained.
        caption: the first of its captions.
        others: captions of other pictures, which it should go less well with; maybe none.
        latent: in the UNet's space, without the VAE's noise, `[1, c, h/f, w/f]`, fp32, CPU.
        mask: uint8 `[1, h/f, w/f]`, or None.
        size: as SDXL is told it.
    """

    name: str
    digest: str
    sort: Sort
    caption: str
    others: tuple[str, ...]
    latent: Tensor
    mask: Tensor | None
    size: PictureSize


@dataclass(eq=False)
class Watch:
    """All that a run measures.

    Attributes:
        pictures: held-out, trained and class pictures.
        with_trigger, without_trigger: pairs of prompts that tell how far the adapter acts without
            its trigger; empty where there is none.
        encode: prompts -> conditioning, once they were kept; None encodes at each measurement.
    """

    pictures: Sequence[Watched]
    with_trigger: tuple[str, ...]
    without_trigger: tuple[str, ...]
    encode: Callable[[Sequence[str]], Conditioning] | None = None

    @property
    def prompts(self) -> list[str]:
        """Every prompt that is measured with."""
        of_pictures = (text for each in self.pictures for text in (each.caption, *each.others))
        return list(dict.fromkeys([*of_pictures, *self.with_trigger, *self.without_trigger, ""]))


def watch(
    base: DiffusionBase,
    spec: JobSpec,
    trained: Sequence[Picture],
    held_out: Sequence[Picture],
    classes: Sequence[Picture],
    teller: Teller,
) -> Watch | None:
    """The pictures that `spec.validation` measures, encoded; None where it measures nothing.

    Raises:
        InputError: a picture can't be used.
    """
    if not spec.validation.every_steps:
        return None
    most = spec.validation.max_pictures
    others = [*held_out, *of_folder(spec.validation, spec.data)]
    sorts: dict[Sort, list[Picture]] = {
        "held_out": evenly(others, most),
        "trained": evenly(trained, most),
        "class": evenly(classes, most),
    }
    pictures = [
        each
        for sort, members in sorts.items()
        for each in _encoded(base, spec, members, sort, teller)
    ]
    return Watch(pictures, *trigger_pairs(spec, trained))


def trigger_pairs(
    spec: JobSpec, trained: Sequence[Picture]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(prompts with the trigger, the same number without): captions, and class prompts or they."""
    trigger = spec.data.trigger
    if not trigger:
        return (), ()
    captions = list(dict.fromkeys(picture.caption for picture in trained))
    chosen = [
        captions[number * len(captions) // _LEAK_PROMPTS]
        for number in range(_LEAK_PROMPTS if len(captions) >= _LEAK_PROMPTS else len(captions))
    ]
    plain = spec.data.class_prompts or [without_trigger(caption, trigger) for caption in chosen]
    spread = [plain[number * len(plain) // len(chosen)] for number in range(len(chosen))]
    return tuple(chosen), tuple(spread)


def _encoded(
    base: DiffusionBase,
    spec: JobSpec,
    pictures: Sequence[Picture],
    sort: Sort,
    teller: Teller,
) -> list[Watched]:
    """Those pictures as they are, in the middle and not mirrored."""
    if not pictures:
        return []
    dataset = prepare.make_dataset(base, spec, pictures, [], VisitRules())
    dataset.fill(teller.counter("watch", "encoding pictures that are measured"))
    captions = [picture.caption for picture in pictures]
    found = []
    for index, sample in enumerate(dataset.instances):
        [shown] = dataset.show([Visit(index, False, index)])
        found.append(
            Watched(
                name=sample.picture.name,
                digest=sample.digest,
                sort=sort,
                caption=sample.picture.caption,
                others=other_captions(captions, index),
                latent=base.scale_latents(shown.moments.mean),
                mask=shown.mask,
                size=shown.size,
            )
        )
    return found


def other_captions(captions: Sequence[str], index: int) -> tuple[str, ...]:
    """Captions of the pictures after number `index` that differ from its own."""
    after = [*captions[index + 1 :], *captions[:index]]
    return tuple(dict.fromkeys(c for c in after if c != captions[index]))[:_OTHER_CAPTIONS]
