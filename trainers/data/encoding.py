"""From looks at pictures to records: decoded, cropped, and encoded by the VAE."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import DiffusionBase, LatentDistribution
from trainers.data import augment, masks
from trainers.data.augment import Look
from trainers.data.buckets import Fit
from trainers.data.cache import Record
from trainers.data.decode import MAX_MEGAPIXELS, load_rgb
from trainers.data.scan import Picture
from trainers.machine.memory import MEMORY_ERRORS, is_out_of_memory, release

_BATCH = 4
_BATCH_PIXELS = _BATCH * 512 * 512  # of an encoding batch, whatever the pictures' size
_THREADS = max(1, min(8, os.cpu_count() or 1))
_MAX_NAMED = 8
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Sample:
    """One picture, ready to be looked at.

    Attributes:
        picture: the file and what it shows.
        digest: SHA-256 of the file.
        fit: in its bucket.
        mask: SHA-256 of its mask's file, `alpha`, or empty where masks are not used.
    """

    picture: Picture
    digest: str
    fit: Fit
    mask: str = ""


@dataclass(frozen=True)
class Job:
    """One look at one picture."""

    sample: Sample
    look: Look


@dataclass(frozen=True, eq=False)
class Pixels:
    """What a job shows: fp32 `[3, h, w]` in [-1, 1], and its mask, uint8 `[1, h/f, w/f]`."""

    colours: Tensor
    mask: Tensor | None


class PictureEncoder:
    """Makes the records of jobs: `mean`, `logvar` (`[1, c, h/f, w/f]`, fp32) and maybe `mask`.

    Args:
        masked: whether masks are used.
        max_megapixels: larger pictures are refused.
        threads: that decode and scale ahead of the VAE.
    """

    def __init__(
        self,
        base: DiffusionBase,
        *,
        masked: bool,
        max_megapixels: int = MAX_MEGAPIXELS,
        threads: int = _THREADS,
    ) -> None:
        self.base = base
        self.masked = masked
        self.max_megapixels = max_megapixels
        self.threads = threads

    def __call__(self, jobs: Sequence[Job]) -> list[Record]:
        """The records of `jobs`, in order.

        Raises:
            InputError: names every picture that can't be decoded, and the first that the VAE
                can't encode.
        """
        records: list[Record] = []
        problems: list[str] = []
        loaded = ahead(self._load, jobs, self.threads)
        for batch in batches(jobs):
            rows = []
            for job in batch:
                outcome = next(loaded)
                if isinstance(outcome, InputError):
                    problems.append(str(outcome))
                else:
                    rows.append((job, outcome))
            if not problems:
                records += self._encode(rows)
        if problems:
            more = len(problems) - _MAX_NAMED
            rest = [f"… and {more} more."] if more > 0 else []
            raise InputError("\n".join([*problems[:_MAX_NAMED], *rest]))
        return records

    def _load(self, job: Job) -> Pixels | InputError:
        try:
            factor = self.base.latent_factor if self.masked else None
            return load(job, factor, self.max_megapixels)
        except InputError as error:
            return error

    def _encode(self, rows: Sequence[tuple[Job, Pixels]]) -> list[Record]:
        """The records of decoded pictures; where memory runs out, one after another."""
        try:
            return self._at_once(rows)
        except MEMORY_ERRORS as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
        release()
        return [record for row in rows for record in self._at_once([row])]

    def _at_once(self, rows: Sequence[tuple[Job, Pixels]]) -> list[Record]:
        moments = self.base.encode_pictures(torch.stack([pixels.colours for _, pixels in rows]))
        records: list[Record] = []
        for index, (job, pixels) in enumerate(rows):
            row = slice(index, index + 1)
            record = {"mean": moments.mean[row].cpu(), "logvar": moments.logvar[row].cpu()}
            if not all(bool(torch.isfinite(value).all()) for value in record.values()):
                raise InputError(
                    f"{printable(job.sample.picture.path)}: the VAE gives values that are not "
                    "finite. Run the base in fp32 (--model.precision fp32) or use another VAE."
                )
            if pixels.mask is not None:
                record["mask"] = pixels.mask
            records.append(record)
        return records


def load(job: Job, factor: int | None, max_megapixels: int = MAX_MEGAPIXELS) -> Pixels:
    """Decode a picture and look at it.

    Args:
        factor: pixels per latent along one side, for the mask; None reads none.

    Raises:
        InputError: the picture or its mask can't be decoded.
    """
    picture, fit = job.sample.picture, job.sample.fit
    colours = augment.to_pixels(augment.apply(load_rgb(picture.path, max_megapixels), job.look))
    if factor is None:
        return Pixels(colours, None)
    mask = masks.read_mask(picture.path, picture.mask, max_megapixels)
    return Pixels(colours, masks.apply(mask, fit.source_px, job.look, factor))


def moments(record: Record) -> LatentDistribution:
    """A record as what the VAE said."""
    return LatentDistribution(record["mean"], record["logvar"])


def batches(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Neighbours of one size, no more at once than `_BATCH` and `_BATCH_PIXELS`."""
    first = 0
    while first < len(jobs):
        size = jobs[first].look.target_px
        most = max(1, min(_BATCH, _BATCH_PIXELS // (size[0] * size[1])))
        end = first + 1
        while end < min(len(jobs), first + most) and jobs[end].look.target_px == size:
            end += 1
        yield jobs[first:end]
        first = end


def ahead(work: Callable[[Item], Made], items: Iterable[Item], threads: int) -> Iterator[Made]:
    """`work` done on `items` in order, by threads that are at most `2 * threads` items ahead."""
    if threads <= 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Made]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
