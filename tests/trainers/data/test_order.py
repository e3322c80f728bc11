"""Which picture stands where."""

from __future__ import annotations

from collections import Counter

import pytest

from trainers.data.order import Order


def test_every_epoch_shows_every_picture_once_in_a_new_order():
    order = Order(instances=7, classes=0, class_fraction=0.5, seed=1)
    epochs = [[order.at(7 * e + i)[1] for i in range(7)] for e in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [Order(7, 0, 0.5, 1).at(p) for p in (20, 3, 11)] == [order.at(p) for p in (20, 3, 11)]


@pytest.mark.parametrize("fraction", [0.5, 1 / 3, 0.34, 0.1])
def test_class_pictures_are_mixed_in_by_their_share(fraction):
    order = Order(instances=5, classes=4, class_fraction=fraction, seed=0)
    places = [order.at(p) for p in range(3000)]
    share = sum(is_class for is_class, _ in places) / 3000
    assert share == pytest.approx(fraction, abs=0.002)
    seen = Counter(places)
    for is_class, size in ((False, 5), (True, 4)):
        counts = [seen[is_class, i] for i in range(size)]
        assert max(counts) - min(counts) <= 1


def test_epochs_are_counted_in_instance_pictures():
    order = Order(instances=10, classes=4, class_fraction=0.5, seed=0)
    steps = order.steps_in_epochs(3, places_per_step=4)
    assert steps == 15
    assert order.epoch_of(steps * 4) == 3
    assert order.epoch_of((steps - 1) * 4) == 2
    assert Order(10, 0, 0.5, 0).steps_in_epochs(1, 4) == 3
