"""Which pictures make which batch."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.order import Member, make_order

SQUARE = (64, 64)
SIZES = [SQUARE, (48, 80), (80, 48), (32, 128)]
MEMBERS = st.builds(Member, st.sampled_from(SIZES), st.integers(1, 4))


def stream(instances, classes=0, fraction=0.5, seed=0, batch_size=1):
    rows = [[Member(SQUARE)] * count for count in (instances, classes)]
    return make_order(
        *rows, class_fraction=fraction, seed=seed, batch_size=batch_size, whole_epochs=False
    )


def visits(order, batches):
    return [visit for number in range(batches) for visit in order.batch(number)]


def test_every_epoch_shows_every_picture_once_in_a_new_order():
    order = stream(7, seed=1)
    epochs = [[order.batch(7 * e + i)[0].index for i in range(7)] for e in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    again = stream(7, seed=1)
    assert [again.batch(n) for n in (20, 3, 11)] == [order.batch(n) for n in (20, 3, 11)]


def test_batches_of_one_size_go_on_across_epochs():
    order = stream(7, batch_size=3)
    assert [len(order.batch(n)) for n in range(7)] == [3] * 7
    assert Counter(v.index for v in visits(order, 7)) == dict.fromkeys(range(7), 3)


@pytest.mark.parametrize("fraction", [0.5, 1 / 3, 0.34, 0.1])
@pytest.mark.parametrize("whole_epochs", [False, True])
def test_class_pictures_are_mixed_in_by_their_share(fraction, whole_epochs):
    order = make_order(
        [Member(SQUARE)] * 5, [Member(SQUARE)] * 4,
        class_fraction=fraction, seed=0, batch_size=4, whole_epochs=whole_epochs,
    )  # fmt: skip
    seen = Counter((v.is_class, v.index) for v in visits(order, order.batches_in_epochs(600)))
    share = sum(seen[True, i] for i in range(4)) / seen.total()
    assert share == pytest.approx(fraction, abs=0.002)
    for is_class, size in ((False, 5), (True, 4)):
        counts = [seen[is_class, i] for i in range(size)]
        assert max(counts) - min(counts) <= 1


def test_both_kinds_share_each_batch_where_they_can():
    order = make_order(
        [Member(SQUARE)] * 8, [Member(SQUARE)] * 3,
        class_fraction=0.5, seed=0, batch_size=4, whole_epochs=True,
    )  # fmt: skip
    for number in range(12):
        assert [visit.is_class for visit in order.batch(number)].count(True) == 2


def test_epochs_are_counted_in_instance_pictures():
    order = stream(10, classes=4, batch_size=4)
    batches = order.batches_in_epochs(3)
    assert batches == 15
    assert order.epoch_of(batches) == 3
    assert order.epoch_of(batches - 1) == 2
    assert stream(10, batch_size=4).batches_in_epochs(1) == 3


@settings(max_examples=200)
@given(
    st.lists(MEMBERS, min_size=1, max_size=30),
    st.lists(MEMBERS, max_size=8),
    st.floats(0.05, 0.9),
    st.integers(1, 9),
    st.integers(0, 2**40),
)
def test_every_epoch_shows_each_picture_as_often_as_it_repeats_and_never_mixes_sizes(
    instances, classes, fraction, batch_size, seed
):
    options = {
        "class_fraction": fraction, "seed": seed, "batch_size": batch_size, "whole_epochs": True,
    }  # fmt: skip
    order = make_order(instances, classes, **options)
    place = 0
    for epoch in range(3):
        seen: Counter[int] = Counter()
        numbers = range(order.batches_in_epochs(epoch), order.batches_in_epochs(epoch + 1))
        for number in numbers:
            batch = order.batch(number)
            assert order.epoch_of(number) == epoch
            assert 1 <= len(batch) <= batch_size
            members = [(classes if v.is_class else instances)[v.index] for v in batch]
            assert len({member.size_px for member in members}) == 1
            assert [v.place for v in batch] == list(range(place, place + len(batch)))
            place += len(batch)
            seen.update(v.index for v in batch if not v.is_class)
        assert seen == {index: member.repeats for index, member in enumerate(instances)}
    # a fresh order, asked for the last batch alone, as after a resume
    last = order.batches_in_epochs(3) - 1
    assert make_order(instances, classes, **options).batch(last) == order.batch(last)


@settings(max_examples=50)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 9))
def test_repeats_are_exact_without_buckets_too(repeats, batch_size):
    order = make_order(
        [Member(SQUARE, times) for times in repeats], [],
        class_fraction=0.5, seed=0, batch_size=batch_size, whole_epochs=False,
    )  # fmt: skip
    row = visits(order, 3 * sum(repeats))  # whole epochs, whatever the batch size
    assert Counter(v.index for v in row) == {
        index: 3 * batch_size * times for index, times in enumerate(repeats)
    }
