"""What a loader is asked for, and the words that all loaders share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.base import Prediction
from lora_diffusion.families.detect import PREDICTIONS, Found

Progress = Callable[[str], None]

# Where a model says what it predicts: a checkpoint, a folder.
SAYS = (
    "a v_pred tensor, modelspec metadata or the .yaml beside it",
    "prediction_type in scheduler/scheduler_config.json",
)


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
    zero_snr: bool | None
    clip_skip: int
    on_progress: Progress
    put_off: frozenset[str] = frozenset()

    @property
    def vae_dtype(self) -> torch.dtype:
        """fp32 for fp16, which overflows in SD's VAE."""
        return torch.float32 if self.dtype == torch.float16 else self.dtype

    @property
    def has_zero_snr(self) -> bool:
        """Whether the noise schedule ends without signal, as the user or else the base says."""
        return self.found.zero_snr if self.zero_snr is None else self.zero_snr

    def line(self, prediction: Prediction) -> str:
        """What the base is, for people: "SDXL, v-prediction, zero terminal SNR".

        Raises:
            InputError: noise is to be predicted where there is nothing else, which teaches nothing.
        """
        if self.zero_snr and prediction == "epsilon":
            raise InputError(
                f"{self.where}: predicts noise (epsilon), which does not go with model.zero_snr: "
                "at the last timestep there is nothing but noise. Leave model.zero_snr unset, or "
                "set model.prediction to v_prediction if that is what the model predicts."
            )
        words = [self.found.short_title(), PREDICTIONS[prediction]]
        return ", ".join([*words, "zero terminal SNR"] if self.has_zero_snr else words)

    def stated_prediction(self) -> Prediction | None:
        """What the user said, or else what the base says of itself; None where neither does.

        Raises:
            InputError: they contradict each other, or the base predicts something that training
                does not know.
        """
        known: tuple[Prediction, ...] = get_args(Prediction)
        stated = next((each for each in known if each == self.found.prediction), None)
        if self.prediction == "auto":
            if stated or not self.found.prediction:
                return stated
            raise InputError(
                f"{self.where}: says that it predicts '{printable(self.found.prediction, 40)}', "
                f"which is not supported. If that is wrong, set model.prediction to "
                f"{' or '.join(known)}."
            )
        if stated and stated != self.prediction:
            raise InputError(
                f"{self.where}: says that it predicts {stated}, and model.prediction is "
                f"{self.prediction}. Set model.prediction to auto, or correct what the model says "
                f"({SAYS[self.path.is_dir()]})."
            )
        return self.prediction
