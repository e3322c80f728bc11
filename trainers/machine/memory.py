"""What a run does when memory runs out: it takes up savings one after another, and says so.

Each saving leaves the gradients what they are but for rounding, so training goes on with the same
step. Source of the first: Chen et al., "Training Deep Nets with Sublinear Memory Cost"
(arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import DiffusionBase
from lora_diffusion.families.outline import VAE
from trainers.machine.team import Team
from trainers.machine.unet_options import keep_in_main_memory, recompute_activations
from trainers.spec import JobSpec

MEMORY_ERRORS = (MemoryError, RuntimeError)
"""What to catch, for `is_out_of_memory` to look at."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a device or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and should_reduce_batch_size(error)


def release() -> None:
    """Give back what nobody holds any more; call it outside of the `except` block."""
    clear_device_cache(garbage_collection=True)


@contextmanager
def shortage_told(run_folder: Path) -> Iterator[None]:
    """Turn a lack of memory into an `InputError`; other errors pass."""
    try:
        yield
    except MEMORY_ERRORS as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            "Memory ran out, and not in a step, where it could have been saved. Checkpoints and "
            "exports are as they were. Close other programs or set model.low_memory, then go on "
            f"with python -m trainers.dreambooth_lora --output_dir {printable(run_folder, 400)} "
            "--resume"
        ) from error


@dataclass(frozen=True)
class Savings:
    """What is done to save memory in steps.

    Attributes:
        recompute: activations are recomputed in the backward pass.
        parts: passes that each batch is split into.
        away: the UNet's frozen weights, and the VAE, wait in main memory while unused.
    """

    recompute: bool = False
    parts: int = 1
    away: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def told(self) -> str:
        """The savings in use, in words."""
        words = ["activations are recomputed"] if self.recompute else []
        words += [f"batches go through in {self.parts} parts"] if self.parts > 1 else []
        words += ["the UNet's weights wait in main memory"] if self.away else []
        return ", ".join(words)


class Ladder:
    """The savings of one run, taken up on one base.

    Args:
        most_rows: pictures of a batch that this process takes at most.
        start: those that a checkpoint tells of, as `Savings.as_json` gave them.
        tell: called with new savings and a sentence about them.
    """

    def __init__(
        self,
        spec: JobSpec,
        base: DiffusionBase,
        most_rows: int,
        start: Mapping[str, Any],
        tell: Callable[[Savings, str], None],
    ) -> None:
        self.spec = spec
        self.base = base
        self.most_rows = most_rows
        self.device = base.device
        self.savings = Savings(recompute=spec.model.gradient_checkpointing)
        self._tell = tell
        if start:
            self.take_up(Savings(**start))

    @property
    def rows(self) -> int:
        """Pictures that go through at once, at most."""
        return -(-self.most_rows // self.savings.parts)

    def take_up(self, savings: Savings) -> None:
        """Do as `savings` say; none that is in use is given up."""
        before = self.savings
        if savings.recompute and not before.recompute:
            recompute_activations(self.base.parts.values())
        if savings.away and not before.away:
            keep_in_main_memory(self.base.unet, self.device)
            self._move_vae("cpu")
        self.savings = Savings(
            before.recompute or savings.recompute,
            max(before.parts, savings.parts),
            before.away or savings.away,
        )

    def go_down(self, step: int) -> None:
        """Take up the next saving, for step number `step` (from 0) to be done again.

        Raises:
            InputError: all are in use.
        """
        savings = self._next()
        if savings is None:
            raise InputError(self._at_the_end(step))
        self.take_up(savings)
        release()
        self._tell(
            self.savings, f"Memory ran out in step {step + 1}. From here on {savings.told()}."
        )

    def meet(self, team: Team, step: int) -> None:
        """Save as much as the process does that saves most."""
        own = self.savings
        recompute, parts, away = team.highest((int(own.recompute), own.parts, int(own.away)))
        found = Savings(bool(recompute), parts, bool(away))
        if found != own:
            self.take_up(found)
            told = (
                f"Memory ran out in step {step + 1} on another device. From here on {found.told()}."
            )
            self._tell(found, told)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Inside, the VAE is on the UNet's device."""
        if not self.savings.away:
            yield
            return
        self._move_vae(self.device)
        try:
            yield
        finally:
            self._move_vae("cpu")

    def _next(self) -> Savings | None:
        now = self.savings
        if not now.recompute:
            return replace(now, recompute=True)
        if now.parts < self.most_rows:
            return replace(now, parts=min(2 * now.parts, self.most_rows))
        if not now.away and self.device.type != "cpu" and not self.spec.model.compile:
            return replace(now, away=True)
        return None

    def _at_the_end(self, step: int) -> str:
        return (
            f"Memory ran out in step {step + 1}, although {self.savings.told()}. The adapter as it "
            "was before is kept. Close other programs, or lower data.resolution_px or "
            "adapter.rank, or set model.precision to bf16 and model.fp8_base, and go on with "
            "--resume --fork."
        )

    def _move_vae(self, device: torch.device | str) -> None:
        if VAE in self.base.loaded:
            self.base.vae.to(device)
