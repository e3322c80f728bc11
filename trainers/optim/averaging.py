"""The weights that previews and exports show, where they are not those that are being trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lora_diffusion.injection import AdapterHandle


class ShownWeights:
    """An exponential moving average of the adapter, schedule-free's average, or just the adapter.

    Attributes:
        average: the moving average by parameter name, fp32; empty where none is kept.
    """

    def __init__(self, handle: AdapterHandle, optimizer: Optimizer, decay: float | None) -> None:
        self._parameters = {f"{key}/{name}": p for key, name, p in handle.named_parameters()}
        self._optimizer: Any = optimizer
        self._decay = decay
        self.average: dict[str, Tensor] = {}
        if decay is not None:
            self.average = {n: p.detach().clone() for n, p in self._parameters.items()}

    def restore(self, average: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's average; names that it lacks stay as they are."""
        for name, own in self.average.items():
            own.copy_(average.get(name, own))

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take in the weights after update number `step` (from 0).

        average <- d average + (1 - d) weights with d = min(decay, (1 + step) / (10 + step)), the
        warm-up of TensorFlow's ExponentialMovingAverage: early steps do not linger.
        """
        if self._decay is not None:
            decay = min(self._decay, (1 + step) / (10 + step))
            update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            update(list(self.average.values()), list(self._parameters.values()), step)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the adapter is what is to be shown; after it, what it was, bit for bit."""
        averages = hasattr(self._optimizer, "eval")  # schedule-free
        if not averages and self._decay is None:
            yield
            return
        trained = {name: p.detach().clone() for name, p in self._parameters.items()}
        try:
            if averages:
                self._optimizer.eval()
            else:
                self._put(self.average)
            yield
        finally:
            if averages:
                self._optimizer.train()
            self._put(trained)  # exact: going forth and back again is not

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
