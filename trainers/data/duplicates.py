"""Which pictures are the same, or nearly. No torch.

Hashes are compared in bands: two of 64 bits that differ in at most `NEAR_BITS` agree in at least
one of `NEAR_BITS + 1` bands whole, so that only pictures that share a band are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trainers.data.examine import Facts

NEAR_BITS = 5
NEAR_COLOURS = 12.0  # mean difference, of 255, of 8 x 8 colours
_MAX_COMPARED = 500  # where more share a band, so many are compared with all others
_BLOCK = 2000


def exact(facts: Sequence[Facts]) -> dict[int, int]:
    """Later picture -> the first with the same bytes."""
    first: dict[str, int] = {}
    found = {}
    for index, each in enumerate(facts):
        if each.error or not each.digest:
            continue
        earlier = first.setdefault(each.digest, index)
        if earlier != index:
            found[index] = earlier
    return found


def near(facts: Sequence[Facts], skip: dict[int, int]) -> dict[int, int]:
    """Later picture -> an earlier one that looks the same; exact copies and flat ones left out."""
    kept = [
        i for i, each in enumerate(facts) if not each.error and not each.is_flat and i not in skip
    ]
    if len(kept) < 2:
        return {}
    looks = np.array([facts[i].look for i in kept], dtype=np.uint64)
    colours = np.frombuffer(b"".join(facts[i].colours for i in kept), dtype=np.uint8)
    colours = colours.reshape(len(kept), -1)
    found: dict[int, int] = {}
    for members in _sharing_a_band(looks):
        for earlier, later in _alike(looks, colours, members):
            found.setdefault(kept[later], kept[earlier])
    return {later: _root(found, later) for later in sorted(found)}


def _sharing_a_band(looks: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """Groups of two or more pictures whose hashes agree in a band."""
    edges = np.linspace(0, 64, NEAR_BITS + 2).astype(int)
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        band = (looks >> np.uint64(low)) & mask
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order])) + 1
        yield from (group for group in np.split(order, starts) if len(group) > 1)


def _alike(
    looks: NDArray[np.uint64], colours: NDArray[np.uint8], members: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """(earlier, later) of `members`, which ascend, that look the same."""
    first = members[:_MAX_COMPARED]
    for start in range(0, len(members), _BLOCK):
        block = members[start : start + _BLOCK]
        bits = np.bitwise_count(looks[first][:, None] ^ looks[block][None])  # [first, block]
        at, other = np.nonzero((bits <= NEAR_BITS) & (first[:, None] < block[None]))
        if not len(at):
            continue
        earlier, later = first[at], block[other]
        differences = np.abs(colours[earlier].astype(np.int16) - colours[later]).mean(axis=1)
        for index in np.flatnonzero(differences <= NEAR_COLOURS):
            yield int(earlier[index]), int(later[index])


def _root(found: dict[int, int], index: int) -> int:
    while index in found:
        index = found[index]
    return index
