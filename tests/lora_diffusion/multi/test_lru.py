"""The cache against a model of it: exact accounting, pinned values stay, oldest leave first."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lora_diffusion.multi.lru import ByteLRU, NoRoom

BUDGET = 20
KEYS = st.integers(0, 7)
SIZES = st.integers(0, 12)


class AgainstAModel(RuleBasedStateMachine):
    """The model is a list of [key, size, pins], least recently used first."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: ByteLRU[int, str] = ByteLRU(BUDGET)
        self.model: list[list[int]] = []

    def entry(self, key: int) -> list[int] | None:
        return next((entry for entry in self.model if entry[0] == key), None)

    @rule(key=KEYS, size=SIZES)
    def put(self, key: int, size: int) -> None:
        if self.entry(key):
            return
        pinned = sum(entry[1] for entry in self.model if entry[2])
        if pinned + size > BUDGET:
            before = self.cache.keys()
            with pytest.raises(NoRoom) as raised:
                self.cache.put(key, str(key), size)
            assert (raised.value.needed_bytes, raised.value.pinned_bytes) == (size, pinned)
            assert self.cache.keys() == before
            return
        self.cache.put(key, str(key), size)
        while sum(entry[1] for entry in self.model) + size > BUDGET:
            self.model.remove(next(entry for entry in self.model if not entry[2]))
        self.model.append([key, size, 0])

    @rule(key=KEYS)
    def get(self, key: int) -> None:
        found = self.entry(key)
        assert self.cache.get(key) == (str(key) if found else None)
        if found:
            self.model.remove(found)
            self.model.append(found)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.model))
        self.cache.pin(entry[0])
        entry[2] += 1

    @precondition(lambda self: any(entry[2] for entry in self.model))
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from([entry for entry in self.model if entry[2]]))
        self.cache.unpin(entry[0])
        entry[2] -= 1

    @rule(key=KEYS)
    def discard(self, key: int) -> None:
        entry = self.entry(key)
        if entry is None or not entry[2]:
            self.cache.discard(key)
            self.model = [other for other in self.model if other is not entry]

    @invariant()
    def agrees(self) -> None:
        assert self.cache.keys() == [entry[0] for entry in self.model]
        assert self.cache.used_bytes == sum(entry[1] for entry in self.model) <= BUDGET
        assert self.cache.pinned_bytes == sum(entry[1] for entry in self.model if entry[2])


AgainstAModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgainstAModel = AgainstAModel.TestCase
