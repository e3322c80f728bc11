"""The most bytes of tensors that are there at a time: exact, the same on every machine."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """Inside, every storage that an operator makes is counted until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def begin_anew(self) -> None:
        """Forget the peak up to here, not what is there."""
        self.peak = self.now

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: Any) -> None:
        identity, size = id(storage), storage.nbytes()
        if identity in self._known:
            return

        def freed(_: object) -> None:
            del self._known[identity]
            self.now -= size

        self._known[identity] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)
