"""Which picture stands at which place of which batch: pure functions of (seed, place).

Places are counted over the whole run, 0 for the first picture of the first batch. Instance and
class pictures are interleaved in the given proportion at any batch size, and each set is gone
through in a new order every epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch

from lora_diffusion.randomness import generator


@dataclass(frozen=True)
class Order:
    """Maps a place to a picture.

    Attributes:
        instances: number of instance pictures, at least 1.
        classes: number of class pictures; 0 means none are mixed in.
        class_fraction: share of places that show class pictures.
        seed: of the shuffles.
    """

    instances: int
    classes: int
    class_fraction: float
    seed: int

    def at(self, place: int) -> tuple[bool, int]:
        """(is it a class picture, its index within its set) at `place`."""
        before = self._classes_before(place)
        if self._classes_before(place + 1) > before:
            return True, _shuffled("class", self.seed, before, self.classes)
        return False, _shuffled("instance", self.seed, place - before, self.instances)

    def steps_in_epochs(self, epochs: int, places_per_step: int) -> int:
        """Steps in which each instance picture is seen at least `epochs` times."""
        wanted = epochs * self.instances
        steps = -(-wanted // places_per_step)
        while steps * places_per_step - self._classes_before(steps * places_per_step) < wanted:
            steps += 1
        return steps

    def epoch_of(self, places: int) -> int:
        """Whole epochs over the instance pictures after `places` places."""
        return (places - self._classes_before(places)) // self.instances

    def _classes_before(self, place: int) -> int:
        if not self.classes:
            return 0
        share = Fraction(self.class_fraction).limit_denominator(1000)
        return place * share.numerator // share.denominator


def _shuffled(which: str, seed: int, count: int, size: int) -> int:
    return _permutation(which, seed, count // size, size)[count % size]


@lru_cache(maxsize=8)
def _permutation(which: str, seed: int, epoch: int, size: int) -> tuple[int, ...]:
    source = generator("order", which, seed, epoch)
    return tuple(torch.randperm(size, generator=source).tolist())
