"""The processes that train one run together: who is who, and how they agree. One may be alone.

torchrun, or accelerate through it, starts them and says so in RANK, WORLD_SIZE and LOCAL_RANK. Each
waits for the others at the same places (`agree`, `share`, `gather`, `add_up`), and one that can't
go on comes to the next of these with its reason, so that no other waits in vain. The first, the
main process, writes and tells.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lora_diffusion.errors import InputError
from trainers.stopping import StopRequested, StopSignal

# The main process may draw and write for long while the others wait. One that dies is noticed by
# its connection.
_PATIENCE = timedelta(days=7)
_ENDED = (
    "Another process of this run ended without a word: killed, or out of memory. Go on from the "
    "last checkpoint with --resume."
)
Value = TypeVar("Value")
Levels = tuple[int, int, int]


class Left(Exception):
    """Another process has told, or will tell, why all end; this one ends with `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Team:
    """This process among `size`, of which it is number `rank`, from 0.

    Attributes:
        local_rank: its number on this machine.
    """

    def __init__(
        self, stop: StopSignal | None = None, rank: int = 0, size: int = 1, local_rank: int = 0
    ) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._stop = stop
        self._is_over = False  # one has left, and nobody waits any more

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def own(self, count: int, turn: int = 0) -> slice:
        """Which of `count` items are this process' own: as even as can be, maybe none.

        turn: who gets one more changes with it.
        """
        place = (self.rank - turn) % self.size
        return slice(count * place // self.size, count * (place + 1) // self.size)

    def agree(self, *, ends: bool = False) -> bool:
        """Wait for all; whether one was asked to stop, or says that training `ends`.

        A signal to one is known to all after it.

        Raises:
            InputError, RuntimeError, StopRequested: another process can't go on; on the main one.
            Left: likewise, on the others.
        """
        return bool(self._meet((int(ends), 0, 0))[0]) or self._is_asked()

    def highest(self, levels: Levels) -> Levels:
        """The highest of each level among all.

        Raises:
            as `agree`.
        """
        return self._meet(levels)

    def share(self, work: Callable[[], Value]) -> Value:
        """What `work` gives on the main process, which alone does it.

        Raises:
            as `agree`.
        """
        box = [work() if self.is_main else None]
        if self.size > 1:
            self._meet()
            dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]  # the main process' value

    def gather(self, value: Value) -> list[Value]:
        """What each process has, by rank.

        Raises:
            as `agree`.
        """
        if self.size == 1:
            return [value]
        self._meet()
        return self._gather(value)

    def add_up(self, flat: Tensor) -> None:
        """Make `flat` the sum over all; they have agreed just before."""
        if self.size > 1:
            dist.all_reduce(flat)

    @contextmanager
    def told(self) -> Iterator[None]:
        """If this process can't go on with what is inside, tell the others why."""
        try:
            yield
        except Left:
            raise
        except StopRequested:
            self._leave(None)
            if not self.is_main:
                raise Left(self._stop.exit_code if self._stop else 0) from None
            raise
        except InputError as error:
            was_heard = self._leave((str(error), False))
            if was_heard and not self.is_main:
                raise Left(2) from None
            raise
        except Exception as error:
            self._leave((f"{type(error).__name__}: {error}", True))
            raise

    def _meet(self, levels: Levels = (0, 0, 0), *, leaves: bool = False) -> Levels:
        if self.size == 1:
            return levels
        asked = self._stop.requested if self._stop else None
        state = torch.tensor([int(leaves), int(asked or 0), *levels])
        try:
            dist.all_reduce(state, dist.ReduceOp.MAX)
        except RuntimeError as error:
            if leaves:
                raise
            self._is_over = True
            if self.is_main:
                raise InputError(_ENDED) from error
            raise Left(2) from None
        left, number, *highest = state.tolist()
        if number and self._stop and self._stop.requested is None:
            self._stop.requested = signal.Signals(number)
        self._is_over = bool(left)
        if left and not leaves:
            self._end_with(self._gather(None))
        return highest[0], highest[1], highest[2]

    def _end_with(self, reasons: list[Any]) -> None:
        """Raise what the processes that left have told."""
        told = [reason for reason in reasons if reason is not None]
        if not self.is_main:
            code = self._stop.exit_code if self._stop and not told else 0
            raise Left(max((1 if defect else 2 for _, defect in told), default=code))
        if not told:
            raise StopRequested
        text, is_defect = told[0]
        raise RuntimeError(f"in another process: {text}") if is_defect else InputError(text)

    def _leave(self, reason: tuple[str, bool] | None) -> bool:
        """Come to where the others wait with a reason; whether they were there."""
        if self.size == 1 or self._is_over:
            return True
        try:
            self._meet(leaves=True)
            self._gather(reason)
        except RuntimeError:
            return False
        return True

    def _gather(self, value: Any) -> list[Any]:
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box

    def _is_asked(self) -> bool:
        return self._stop is not None and self._stop.requested is not None


ALONE = Team()
"""A process by itself."""


def size_here() -> int:
    """How many processes this one was started among."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(stop: StopSignal) -> Iterator[Team]:
    """The team that this process was started in; it leaves at the end.

    Raises:
        InputError: the others can't be reached.
    """
    size = size_here()
    if size == 1:
        yield Team(stop)
        return
    has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if has_nccl else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"The other processes of this run can't be reached ({reason}). Start all of them with "
            "accelerate launch or torchrun."
        ) from error
    try:
        yield Team(stop, dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
