"""Ctrl-C and SIGTERM: the first asks the run to save and stop, the second ends it at once."""

from __future__ import annotations

import os
import signal
from types import FrameType

_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopRequested(Exception):
    """Raised where a run stops before training has begun."""


class StopSignal:
    """Listens while it is entered; `requested` is the signal, once there was one."""

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignal:
        for number in _EXIT_CODES:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise `StopRequested` if there was a signal."""
        if self.requested is not None:
            raise StopRequested

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES[self.requested] if self.requested else 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.requested is not None:
            os._exit(_EXIT_CODES[self.requested])
        self.requested = signal.Signals(number)
