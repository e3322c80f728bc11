"""Aspect-ratio buckets: which size a picture is trained at, and what is cropped away. No torch.

A picture keeps its proportions as far as the UNet's step allows: it goes into the bucket that
crops least, is scaled to cover it, and what sticks out is cut. Sizes and boxes are in px; sizes
are (height, width).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lora_diffusion.errors import InputError

Size = tuple[int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class BucketRules:
    """What buckets there are.

    Attributes:
        side_px: no bucket has more pixels than a square of that side.
        step_px: sides of buckets are multiples of it.
        min_px, max_px: shortest and longest side.
        upscale: whether pictures smaller than every bucket, or than the one that suits them best,
            are enlarged.
        square: the one bucket is the square of `side_px`, and pictures are enlarged to it.
    """

    side_px: int
    step_px: int
    min_px: int
    max_px: int
    upscale: bool = False
    square: bool = False

    @staticmethod
    def around(
        side_px: int,
        step_px: int,
        *,
        min_px: int | None = None,
        max_px: int | None = None,
        upscale: bool = False,
        square: bool = False,
    ) -> BucketRules:
        """Rules whose sides reach from half of `side_px` to its double, where not said.

        Raises:
            InputError: no bucket keeps them.
        """
        shortest = _ceil(min_px or side_px // 2, step_px)
        longest = _floor(max_px or side_px * 2, step_px)
        if not square and not shortest <= min(side_px, longest):
            raise InputError(
                f"There is no bucket: sides are multiples of {step_px} px for this base, at least "
                f"{shortest} and at most {longest}, with no more pixels than {side_px} x "
                f"{side_px}. Change data.resolution_px, data.bucket_min_px or data.bucket_max_px."
            )
        return BucketRules(side_px, step_px, shortest, longest, upscale, square)


@dataclass(frozen=True)
class Fit:
    """One picture in its bucket.

    Attributes:
        source_px: size of the upright picture.
        target_px: size of the bucket.
    """

    source_px: Size
    target_px: Size

    @property
    def scale(self) -> float:
        """By how much the picture is scaled: it just covers the bucket. Over 1 enlarges it."""
        return max(to / of for to, of in zip(self.target_px, self.source_px, strict=True))

    @property
    def crop_loss(self) -> float:
        """Share of the picture's area that is cut away, in [0, 1)."""
        ratios = [to / of for to, of in zip(self.target_px, self.source_px, strict=True)]
        return 1 - min(ratios) / max(ratios)

    def box(self, across: float = 0.5, down: float = 0.5) -> Box:
        """What is kept, in the picture's own px: left, top, right, bottom.

        across, down: where the box lies in the room that it has, 0 left or top, 1 right or bottom.
        """
        (height, width), (to_height, to_width) = self.source_px, self.target_px
        ratio = to_width / to_height
        kept_height, kept_width = float(height), float(width)
        if width / height > ratio:
            kept_width = ratio * height
        elif width / height < ratio:
            kept_height = width / ratio
        left, top = (width - kept_width) * across, (height - kept_height) * down
        return left, top, left + kept_width, top + kept_height

    def crop_px(self, box: Box) -> Size:
        """(top, left) of `box` in the scaled picture, as SDXL is told it."""
        return round(box[1] * self.scale), round(box[0] * self.scale)


@dataclass(frozen=True)
class BucketCount:
    """One bucket of a dataset.

    Attributes:
        size_px: its size.
        pictures: how many fall into it.
        visits: how often an epoch shows them: pictures times their repeats.
        crop_loss: mean share of their area that is cut away.
    """

    size_px: Size
    pictures: int
    visits: int
    crop_loss: float


def fit(source_px: Size, rules: BucketRules) -> Fit | None:
    """The bucket of an upright picture: the one that crops least, of equals the largest.

    Returns:
        None if the picture is smaller than every bucket and may not be enlarged.
    """
    if rules.square:
        return Fit(source_px, (rules.side_px, rules.side_px))
    room = (rules.max_px, rules.max_px)
    if not rules.upscale:
        room = (min(source_px[0], rules.max_px), min(source_px[1], rules.max_px))
    sizes = _largest(rules, _floor(room[0], rules.step_px), _floor(room[1], rules.step_px))
    fits = [Fit(source_px, size) for size in sizes]
    return min(fits, key=lambda each: (each.crop_loss, -_area(each.target_px)), default=None)


def buckets(rules: BucketRules) -> tuple[Size, ...]:
    """Every bucket for pictures that are large enough, from the widest to the tallest."""
    if rules.square:
        return ((rules.side_px, rules.side_px),)
    return _largest(rules, rules.max_px, rules.max_px)


def count(fits: Iterable[Fit], repeats: Sequence[int]) -> list[BucketCount]:
    """The buckets that are used, the fullest first."""
    members: dict[Size, list[tuple[Fit, int]]] = {}
    for each, times in zip(fits, repeats, strict=True):
        members.setdefault(each.target_px, []).append((each, times))
    counted = [
        BucketCount(
            size,
            len(inside),
            sum(times for _, times in inside),
            sum(each.crop_loss for each, _ in inside) / len(inside),
        )
        for size, inside in members.items()
    ]
    return sorted(counted, key=lambda bucket: (-bucket.visits, bucket.size_px))


def split_evenly(visits: int, batch_size: int) -> list[int]:
    """Sizes of the batches that `visits` of one bucket make: as few as can be, as even as can be.

    Nothing is left over: 9 in batches of up to 4 are three of 3.
    """
    batches = -(-visits // batch_size)
    return [visits * (i + 1) // batches - visits * i // batches for i in range(batches)]


@lru_cache(maxsize=4096)
def _largest(rules: BucketRules, height_px: int, width_px: int) -> tuple[Size, ...]:
    """Buckets within `height_px` x `width_px` of which neither side could be longer."""
    found: list[Size] = []
    for height in range(rules.min_px, height_px + 1, rules.step_px):
        width = min(_floor(rules.side_px**2 // height, rules.step_px), width_px)
        if width < rules.min_px:
            break
        if found and found[-1][1] == width:
            found.pop()  # as wide, and lower
        found.append((height, width))
    return tuple(found)


def _floor(value: int, step: int) -> int:
    return value // step * step


def _ceil(value: int, step: int) -> int:
    return -(-value // step) * step


def _area(size: Size) -> int:
    return size[0] * size[1]
