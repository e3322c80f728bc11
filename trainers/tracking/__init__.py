"""Mirrors of a run's events in other programs. `events.jsonl` is the truth; these follow it."""

from collections.abc import Mapping

from trainers.tracking.mirror import Open
from trainers.tracking.tensorboard import TensorBoard
from trainers.tracking.weights_and_biases import WeightsAndBiases

OPENERS: Mapping[str, Open] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}

__all__ = ["OPENERS"]
