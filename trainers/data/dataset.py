"""The pictures of a run: where each is trained at, and what a visit to it shows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import LatentDistribution, PictureSize
from lora_diffusion.randomness import uniform
from trainers.data import augment, buckets, caption_choice
from trainers.data.augment import AugmentRules
from trainers.data.buckets import BucketRules, Size
from trainers.data.cache import LatentKey, Progress, Record, Store, digest, file_digest
from trainers.data.caption_choice import CaptionRules
from trainers.data.decode import read_size
from trainers.data.encoding import Job, Sample, moments
from trainers.data.order import Member, Visit
from trainers.data.scan import Picture
from trainers.machine.team import ALONE, Team

DECODING = "1"
"""Version of the rules by which `decode` makes RGB of a file: raise it when they change."""
_RESAMPLING = "lanczos"
_MAX_NAMED = 8


@dataclass(frozen=True)
class VisitRules:
    """How visits to one picture differ.

    Attributes:
        augment, captions: what may be done to a picture, and to its caption.
        caption_dropout: chance that a visit has no caption.
        kept_looks, kept_captions: how many versions of each there are; None makes a new one at
            each visit.
        seed: of all draws.
    """

    augment: AugmentRules = field(default_factory=AugmentRules)
    captions: CaptionRules = field(default_factory=CaptionRules)
    caption_dropout: float = 0.0
    kept_looks: int | None = 1
    kept_captions: int | None = 1
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Shown:
    """What one visit shows.

    Attributes:
        moments: what the VAE says of it, `[1, c, h/f, w/f]`, fp32, CPU.
        mask: uint8 `[1, h/f, w/f]`, or None where masks are not used.
        caption: its words.
        size: as SDXL is told it.
        weight: factor on its loss.
    """

    moments: LatentDistribution
    mask: Tensor | None
    caption: str
    size: PictureSize
    weight: float


class Dataset:
    """Pictures, with the rules and the records by which visits to them are shown.

    Args:
        encode: makes the records of jobs, see `encoding.PictureEncoder`.
        store: where records are kept; None makes them at each visit.
        vae, vae_dtype: SHA-256 and number format of the VAE, for the records' keys.
    """

    def __init__(
        self,
        instances: Sequence[Sample],
        classes: Sequence[Sample],
        rules: VisitRules,
        encode: Callable[[Sequence[Job]], Sequence[Record]],
        store: Store[Job] | None,
        *,
        vae: str = "",
        vae_dtype: str = "",
    ) -> None:
        self.instances = tuple(instances)
        self.classes = tuple(classes)
        self.rules = rules
        self.fingerprint = fingerprint((*instances, *classes))
        self._encode = encode
        self._store = store
        self._vae, self._vae_dtype = vae, vae_dtype

    def members(self, *, is_class: bool) -> list[Member]:
        """What ordering needs to know of the pictures."""
        samples = self.classes if is_class else self.instances
        return [Member(s.fit.target_px, s.picture.repeats) for s in samples]

    def fill(self, on_progress: Progress, team: Team = ALONE) -> None:
        """Make every record that is kept and not there yet, one size after the other.

        Each process of `team` makes its share.

        Raises:
            InputError: pictures that can't be decoded or encoded, or a cache that can't be written.
        """
        if self._store is not None:
            self._store.fill(self.wanted(), self._encode, on_progress, team)

    def wanted(self) -> dict[str, Job]:
        """Key -> job of every look that is kept."""
        by_size: dict[Size, list[Sample]] = {}
        for sample in (*self.instances, *self.classes):
            by_size.setdefault(sample.fit.target_px, []).append(sample)
        jobs = (
            self._job(sample, number, mirror)
            for samples in by_size.values()
            for sample in samples
            for number in range(self.rules.kept_looks or 1)
            for mirror in self.rules.augment.mirrors
        )
        return {self._key(job): job for job in jobs}

    def show(self, visits: Sequence[Visit]) -> list[Shown]:
        """What a batch of visits shows."""
        jobs = [self._job_of(visit) for visit in visits]
        if self._store is None:
            records = self._encode(jobs)
        else:
            records = [self._store.read(self._key(job)) for job in jobs]
        return [
            Shown(
                moments=moments(record),
                mask=record.get("mask"),
                caption=self.caption(visit),
                size=augment.told_size(job.sample.fit, job.look),
                weight=job.sample.picture.weight,
            )
            for visit, job, record in zip(visits, jobs, records, strict=True)
        ]

    def captions(self) -> list[str]:
        """Every caption that a visit may have, where so many are kept."""
        found = {
            self._caption(sample, number)
            for sample in (*self.instances, *self.classes)
            for number in range(self.rules.kept_captions or 1)
        }
        return sorted(found)

    def picture(self, visit: Visit) -> Picture:
        """The picture that is visited."""
        return self._sample(visit).picture

    def _sample(self, visit: Visit) -> Sample:
        return (self.classes if visit.is_class else self.instances)[visit.index]

    def _job_of(self, visit: Visit) -> Job:
        rules = self.rules
        number = _turn("look", rules.seed, visit.place, rules.kept_looks)
        mirror = augment.is_mirrored(rules.augment, rules.seed, visit.place)
        return self._job(self._sample(visit), number, mirror)

    def _job(self, sample: Sample, number: int, mirror: bool) -> Job:
        rules = self.rules
        look = augment.look(sample.fit, rules.augment, rules.seed, sample.digest, number, mirror)
        return Job(sample, look)

    def caption(self, visit: Visit) -> str:
        """What a visit's picture is called."""
        rules = self.rules
        if uniform("caption dropout", rules.seed, visit.place) < rules.caption_dropout:
            return ""
        number = _turn("caption", rules.seed, visit.place, rules.kept_captions)
        return self._caption(self._sample(visit), number)

    def _caption(self, sample: Sample, number: int) -> str:
        picture, rules = sample.picture, self.rules
        return caption_choice.choose(
            picture.captions, rules.captions, picture.trigger, rules.seed, sample.digest, number
        )

    def _key(self, job: Job) -> str:
        look = job.look
        return digest(
            LatentKey(
                picture=job.sample.digest,
                vae=self._vae,
                vae_dtype=self._vae_dtype,
                mask=job.sample.mask,
                box=look.box,
                height_px=look.target_px[0],
                width_px=look.target_px[1],
                flipped=look.flipped,
                brightness=look.brightness,
                contrast=look.contrast,
                saturation=look.saturation,
                decoding=DECODING,
                resampling=_RESAMPLING,
            )
        )


def place_in_buckets(
    pictures: Sequence[Picture], rules: BucketRules, *, masked: bool
) -> list[Sample]:
    """Each picture in its bucket, its files hashed and its header read where the scan has not.

    Raises:
        InputError: a file can't be read, or pictures are too small; names each of these.
    """
    samples, problems = [], []
    for picture in pictures:
        fit = buckets.fit(picture.size_px or read_size(picture.path), rules)
        if fit is None:
            problems.append(_too_small(picture, rules))
            continue
        mask = ""
        if masked:
            mask = "alpha" if picture.mask is None else file_digest(picture.mask)
        samples.append(Sample(picture, picture.digest or file_digest(picture.path), fit, mask))
    if problems:
        more = len(problems) - _MAX_NAMED
        rest = [f"… and {more} more."] if more > 0 else []
        raise InputError("\n".join([*problems[:_MAX_NAMED], *rest]))
    return samples


def fingerprint(samples: Sequence[Sample]) -> str:
    """A hash of every picture's bytes, captions, kind, mask, weight, repeats and size."""
    total = hashlib.sha256()
    for sample in samples:
        picture = sample.picture
        told = (
            picture.name, sample.digest, picture.captions, picture.is_class, picture.repeats,
            picture.weight, sample.mask, sample.fit,
        )  # fmt: skip
        total.update(repr(told).encode("utf-8", "surrogatepass") + b"\x1e")
    return total.hexdigest()


def _turn(what: str, seed: int, place: int, kept: int | None) -> int:
    """Which version a visit sees: of those that are kept, or a new one."""
    if kept is None:
        return place
    return int(uniform(f"{what} version", seed, place) * kept) if kept > 1 else 0


def _too_small(picture: Picture, rules: BucketRules) -> str:
    height, width = picture.size_px or read_size(picture.path)
    return (
        f"{printable(picture.path)}: {width} x {height} px is too small, a side has at least "
        f"{rules.min_px} px. Enlarge it (--data.upscale true), lower data.bucket_min_px, or take "
        "it out of the folder."
    )
