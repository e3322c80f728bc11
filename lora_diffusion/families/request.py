"""What a loader is asked for, and the words that all loaders share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import Prediction
from lora_diffusion.families.detect import Found

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """One call of `load_base`, its location resolved and recognised.

    Attributes:
        path: the folder or file.
        name: what people and metadata call it.
        where: what messages call it, safe to print: file or folder name, or hub id.
        found: what it says of itself.
        The others are `load_base`'s arguments.
    """

    path: Path
    name: str
    where: str
    found: Found
    device: torch.device
    dtype: torch.dtype
    tokenizer: Path | None
    prediction: Prediction | Literal["auto"]
    clip_skip: int
    on_progress: Progress

    @property
    def vae_dtype(self) -> torch.dtype:
        """fp32 for fp16, which overflows in SD's VAE."""
        return torch.float32 if self.dtype == torch.float16 else self.dtype

    def chosen_prediction(self) -> Prediction:
        """What the user said, or else what the base says of itself.

        Raises:
            InputError: the base predicts something that training does not know.
        """
        if self.prediction != "auto":
            return self.prediction
        for known in get_args(Prediction):
            if self.found.prediction == known:
                return known  # type: ignore[no-any-return]
        raise InputError(
            f"{self.where}: says that it predicts '{printable(self.found.prediction, 40)}', which "
            f"is not supported. If that is wrong, set model.prediction to "
            f"{' or '.join(get_args(Prediction))}."
        )
