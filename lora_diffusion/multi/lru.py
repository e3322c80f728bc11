"""A cache with a budget of bytes: the least recently used leave first, pinned ones never."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class NoRoom(Exception):
    """A value does not fit beside what is pinned.

    Attributes:
        needed_bytes, pinned_bytes, budget_bytes: what it takes, what can't leave, what there is.
    """

    def __init__(self, needed_bytes: int, pinned_bytes: int, budget_bytes: int) -> None:
        super().__init__(f"{needed_bytes} + {pinned_bytes} > {budget_bytes} bytes")
        self.needed_bytes = needed_bytes
        self.pinned_bytes = pinned_bytes
        self.budget_bytes = budget_bytes


@dataclass
class _Entry(Generic[V]):
    value: V
    size: int
    pins: int = 0


class ByteLRU(Generic[K, V]):
    """Values by key, whose sizes never sum to more than the budget. Not for several threads."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()  # least recently used first

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self) -> list[K]:
        """Least recently used first."""
        return list(self._entries)

    @property
    def pinned_bytes(self) -> int:
        return sum(entry.size for entry in self._entries.values() if entry.pins)

    def get(self, key: K) -> V | None:
        """The value, which is now the most recently used; None if it is not here."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry.value

    def value(self, key: K) -> V:
        """A value that is here; this is no use of it."""
        return self._entries[key].value

    def make_room(self, size: int) -> None:
        """Let go of the least recently used until `size` bytes are free.

        Raises:
            NoRoom: they can't be freed; nothing leaves then.
        """
        if size + self.pinned_bytes > self.budget_bytes:
            raise NoRoom(size, self.pinned_bytes, self.budget_bytes)
        for key in list(self._entries):
            if self.used_bytes + size <= self.budget_bytes:
                return
            if not self._entries[key].pins:
                self.discard(key)

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value that is not here yet, as the most recently used.

        Raises:
            NoRoom: it does not fit; nothing changes then.
        """
        assert key not in self._entries and size >= 0
        self.make_room(size)
        self._entries[key] = _Entry(value, size)
        self.used_bytes += size

    def discard(self, key: K) -> None:
        """Let go of a value, if it is here; it must not be pinned."""
        entry = self._entries.get(key)
        if entry is None:
            return
        assert not entry.pins
        del self._entries[key]
        self.used_bytes -= entry.size

    def pin(self, key: K) -> None:
        """Keep a value that is here until it has been unpinned as often as pinned."""
        self._entries[key].pins += 1

    def unpin(self, key: K) -> None:
        entry = self._entries[key]
        assert entry.pins > 0
        entry.pins -= 1

    def is_pinned(self, key: K) -> bool:
        return key in self._entries and self._entries[key].pins > 0
