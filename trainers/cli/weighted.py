"""Adapters on the command line: `FILE:WEIGHTS`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from lora_diffusion.composition.weights import Weights, split_weight
from lora_diffusion.errors import InputError

FORM = "FILE:WEIGHTS"
HELP = (
    "adapter and its weights: 0.8, or 0.8,text=0.5,mid=0,down.1=0.3,steps=0:1;0.5:0 "
    "(1 if left out; docs/composition.md)"
)


@dataclass(frozen=True)
class Weighted:
    """An adapter file and its weights."""

    path: Path
    weights: Weights = field(default_factory=Weights)

    @classmethod
    def parse(cls, text: str) -> Weighted:
        """`mine.safetensors:0.8`; without weights they are 1.

        Raises:
            argparse.ArgumentTypeError: the weights cannot be read.
        """
        try:
            path, weights = split_weight(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None
        return cls(Path(path), weights)

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.name.removesuffix(".safetensors")

    @property
    def weight(self) -> float:
        """The overall weight."""
        return self.weights.overall
