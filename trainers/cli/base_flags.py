"""The flags that say which base a verb works with, where and how it is read."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_diffusion.families.base import DiffusionBase


def add_base_flags(parser: argparse.ArgumentParser) -> None:
    """`--base` and what it takes to read it, as `open_base` expects them."""
    parser.add_argument("--base", metavar="PATH", default="bundled:demo_base", help="base model")
    parser.add_argument("--clip_skip", type=int, default=1, help="text-encoder layer from the last")
    parser.add_argument(
        "--prediction",
        default="auto",
        choices=["auto", "epsilon", "v_prediction"],
        help="what the base predicts, where it does not say",
    )
    parser.add_argument(
        "--zero_snr",
        action=argparse.BooleanOptionalAction,
        help="noise schedule that ends without signal; unset reads it from the base",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"], help="of the base"
    )
    parser.add_argument("--tokenizer", metavar="DIR", help="CLIP tokenizer, for a single-file base")


def open_base(arguments: argparse.Namespace, base: str | None = None) -> DiffusionBase:
    """The base that the flags name, or `base` read as they say.

    Raises:
        InputError: it can't be used.
    """
    from lora_diffusion.families import load_base
    from trainers.machine import devices
    from trainers.progress import silence_libraries
    from trainers.spec import ModelSpec

    placement = devices.choose(ModelSpec(device=arguments.device, precision=arguments.precision))
    silence_libraries()
    return load_base(
        base or arguments.base,
        device=placement.device,
        dtype=placement.dtype,
        tokenizer=arguments.tokenizer,
        prediction=arguments.prediction,
        zero_snr=arguments.zero_snr,
        clip_skip=arguments.clip_skip,
        on_progress=lambda text: print(text, file=sys.stderr),
    )
