"""Which pictures make which batch: pure functions of (seed, number of the batch).

A batch is a row of visits to pictures of one size. Places number the visits over the whole run, 0
for the first picture of the first batch; all else that is random about a visit follows from (seed,
place). An epoch visits every instance picture as often as its repeats say, in a new order each
time; class pictures are mixed in evenly, in the given proportion, and take turns across epochs.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Protocol

import torch

from lora_diffusion.randomness import generator
from trainers.data.buckets import Size, split_evenly


@dataclass(frozen=True)
class Visit:
    """One picture in one batch.

    Attributes:
        place: number of the visit in the run, from 0.
        is_class: whether it is a class picture.
        index: of the picture within its set.
    """

    place: int
    is_class: bool
    index: int


@dataclass(frozen=True)
class Member:
    """What ordering needs to know of a picture: the size it is trained at, and its repeats."""

    size_px: Size
    repeats: int = 1


class Order(Protocol):
    """Maps the number of a batch to its visits."""

    def batch(self, number: int) -> tuple[Visit, ...]:
        """The visits of a batch (from 0): one size, at least one, at most the batch size."""

    def batches_in_epochs(self, epochs: int) -> int:
        """Batches in which each instance picture is seen at least `epochs` times its repeats."""

    def epoch_of(self, batches: int) -> int:
        """Whole epochs in so many batches."""


def make_order(
    instances: Sequence[Member],
    classes: Sequence[Member],
    *,
    class_fraction: float,
    seed: int,
    batch_size: int,
    whole_epochs: bool,
) -> Order:
    """The order of a run.

    Args:
        instances: at least one.
        class_fraction: share of visits that show class pictures, where there are any.
        whole_epochs: end each epoch with smaller batches, which several sizes need. False goes on
            into the next epoch within a batch; all pictures have one size then.
    """
    share = Fraction(class_fraction).limit_denominator(1000) if classes else Fraction(0)
    if whole_epochs:
        return BucketOrder(tuple(instances), tuple(classes), share, seed, batch_size)
    return StreamOrder(_slots(instances), _slots(classes), share, seed, batch_size)


@dataclass(frozen=True)
class StreamOrder:
    """Full batches out of an endless row of visits, across the ends of epochs.

    Attributes:
        instances, classes: index of a picture, once for each of its repeats.
        class_share: share of visits that show class pictures.
    """

    instances: tuple[int, ...]
    classes: tuple[int, ...]
    class_share: Fraction
    seed: int
    batch_size: int

    def batch(self, number: int) -> tuple[Visit, ...]:
        first = number * self.batch_size
        return tuple(self._at(place) for place in range(first, first + self.batch_size))

    def batches_in_epochs(self, epochs: int) -> int:
        wanted = epochs * len(self.instances)
        batches = -(-wanted // self.batch_size)
        while self._instances_in(batches) < wanted:
            batches += 1
        return batches

    def epoch_of(self, batches: int) -> int:
        return self._instances_in(batches) // len(self.instances)

    def _at(self, place: int) -> Visit:
        before = self._classes_before(place)
        if self._classes_before(place + 1) > before:
            return Visit(place, True, _shuffled("class", self.seed, before, self.classes))
        return Visit(place, False, _shuffled("instance", self.seed, place - before, self.instances))

    def _instances_in(self, batches: int) -> int:
        places = batches * self.batch_size
        return places - self._classes_before(places)

    def _classes_before(self, place: int) -> int:
        return place * self.class_share.numerator // self.class_share.denominator


@dataclass(frozen=True, eq=False)
class BucketOrder:
    """Batches of one size each; every epoch is complete in itself.

    Within a size, class pictures are spread evenly among the instance pictures, and the visits are
    split into as few and as even batches as can be. The batches of an epoch are shuffled.
    """

    instances: tuple[Member, ...]
    classes: tuple[Member, ...]
    class_share: Fraction
    seed: int
    batch_size: int
    # Batches, and visits, before each epoch, as far as they were asked for.
    _batches_before: list[int] = field(default_factory=lambda: [0], repr=False)
    _visits_before: list[int] = field(default_factory=lambda: [0], repr=False)

    def batch(self, number: int) -> tuple[Visit, ...]:
        while self._batches_before[-1] <= number:
            self._count_next()
        epoch = bisect_right(self._batches_before, number) - 1
        return _epoch(self, epoch)[number - self._batches_before[epoch]]

    def batches_in_epochs(self, epochs: int) -> int:
        while len(self._batches_before) <= epochs:
            self._count_next()
        return self._batches_before[epochs]

    def epoch_of(self, batches: int) -> int:
        while self._batches_before[-1] <= batches:
            self._count_next()
        return bisect_right(self._batches_before, batches) - 1

    def layout(self, epoch: int) -> tuple[tuple[Visit, ...], ...]:
        """The batches of an epoch, in order."""
        chunks = [
            chunk
            for _, visits in sorted(self._by_size(epoch).items())
            for chunk in _chunks(visits, self.batch_size)
        ]
        place = self._visits_before[epoch]
        batches = []
        for index in _permutation("batches", self.seed, epoch, len(chunks)):
            batches.append(
                tuple(
                    Visit(place + offset, is_class, picture)
                    for offset, (is_class, picture) in enumerate(chunks[index])
                )
            )
            place += len(chunks[index])
        return tuple(batches)

    @cached_property
    def _slots(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return _slots(self.instances), _slots(self.classes)

    @cached_property
    def _instances_of_size(self) -> Counter[Size]:
        return Counter(self.instances[index].size_px for index in self._slots[0])

    def _count_next(self) -> None:
        """Go on with the sums by one epoch."""
        of_size = self._instances_of_size + Counter(
            self.classes[index].size_px for index in self._classes_in(len(self._batches_before) - 1)
        )
        batches = sum(-(-visits // self.batch_size) for visits in of_size.values())
        self._batches_before.append(self._batches_before[-1] + batches)
        self._visits_before.append(self._visits_before[-1] + of_size.total())

    def _classes_in(self, epoch: int) -> list[int]:
        """The class pictures of an epoch."""
        per_epoch = len(self._slots[0]) * self.class_share / (1 - self.class_share)
        turns = range(int(epoch * per_epoch), int((epoch + 1) * per_epoch))
        return [_shuffled("class", self.seed, turn, self._slots[1]) for turn in turns]

    def _by_size(self, epoch: int) -> dict[Size, list[tuple[bool, int]]]:
        """The visits of an epoch, (is it a class picture, its index), by size."""
        of_size: dict[Size, tuple[list[int], list[int]]] = {}
        slots = self._slots[0]
        for slot in _permutation("instance", self.seed, epoch, len(slots)):
            size = self.instances[slots[slot]].size_px
            of_size.setdefault(size, ([], []))[0].append(slots[slot])
        for index in self._classes_in(epoch):
            of_size.setdefault(self.classes[index].size_px, ([], []))[1].append(index)
        return {size: _spread(*visits) for size, visits in of_size.items()}


def _slots(members: Sequence[Member]) -> tuple[int, ...]:
    """The index of each member, once for each of its repeats."""
    return tuple(
        itertools.chain.from_iterable([index] * each.repeats for index, each in enumerate(members))
    )


def _spread(instances: Sequence[int], classes: Sequence[int]) -> list[tuple[bool, int]]:
    """Both in one row, each in its order and evenly spaced."""
    placed = [((2 * i + 1) * len(classes), (False, index)) for i, index in enumerate(instances)]
    placed += [((2 * i + 1) * len(instances), (True, index)) for i, index in enumerate(classes)]
    return [visit for _, visit in sorted(placed, key=lambda each: each[0])]


def _chunks(
    visits: Sequence[tuple[bool, int]], batch_size: int
) -> list[Sequence[tuple[bool, int]]]:
    ends = list(itertools.accumulate(split_evenly(len(visits), batch_size)))
    return [visits[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@lru_cache(maxsize=2)
def _epoch(order: BucketOrder, epoch: int) -> tuple[tuple[Visit, ...], ...]:
    return order.layout(epoch)


def _shuffled(which: str, seed: int, count: int, row: Sequence[int]) -> int:
    epoch, position = divmod(count, len(row))
    return row[_permutation(which, seed, epoch, len(row))[position]]


@lru_cache(maxsize=8)
def _permutation(which: str, seed: int, epoch: int, size: int) -> tuple[int, ...]:
    source = generator("order", which, seed, epoch)
    return tuple(torch.randperm(size, generator=source).tolist())
