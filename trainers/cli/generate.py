"""`lora-diffusion generate`: pictures from a base and weighted adapters."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_diffusion.errors import InputError, printable
from trainers.cli.verb import Verb

if TYPE_CHECKING:
    from lora_diffusion.families.base import DiffusionBase

_SLUG_LENGTH = 40


@dataclass(frozen=True)
class Weighted:
    """An adapter file and its strength."""

    path: Path
    weight: float

    @classmethod
    def parse(cls, text: str) -> Weighted:
        """`mine.safetensors:0.8`; without a number the weight is 1."""
        path, colon, number = text.rpartition(":")
        try:
            return cls(Path(path), float(number)) if colon else cls(Path(text), 1.0)
        except ValueError:
            if Path(path).is_file() and not Path(text).exists():
                raise argparse.ArgumentTypeError(
                    f"the weight '{printable(number, 40)}' of {printable(path)} is not a number"
                ) from None
            return cls(Path(text), 1.0)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", metavar="PATH", default="bundled:demo_base", help="base model")
    parser.add_argument(
        "--adapter",
        metavar="FILE:WEIGHT",
        action="append",
        default=[],
        type=Weighted.parse,
        help="adapter and its weight (1 if left out); may be given several times",
    )
    parser.add_argument("--prompt", required=True, action="append", help="may be repeated")
    parser.add_argument("--negative", default="", help="what not to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the first picture (default 0)")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps (default 25)")
    parser.add_argument("--cfg", type=float, default=7.0, help="guidance scale (default 7)")
    parser.add_argument("--size", metavar="WxH", help="in px (default: the base's own)")
    parser.add_argument("--count", type=int, default=1, help="pictures per prompt (default 1)")
    parser.add_argument("--sampler", default="ddim", help="ddim, euler, euler_a or dpm++")
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
    parser.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder of the PNGs")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from lora_diffusion.families.schedulers import SAMPLERS
    from lora_diffusion.formats.reading import open_adapter
    from lora_diffusion.generate import PictureSpec, draw, save_png

    if arguments.sampler not in SAMPLERS:
        raise InputError(f"--sampler must be one of {', '.join(SAMPLERS)}.")
    if arguments.count < 1 or arguments.steps < 1:
        raise InputError("--count and --steps must be at least 1.")
    for weighted in arguments.adapter:
        open_adapter(weighted.path)  # is it one? The base takes long to load
    base = _load(arguments)
    width, height = _size(arguments.size, base.native_size_px)
    pictures = [
        PictureSpec(
            prompt=prompt,
            negative=arguments.negative,
            seed=arguments.seed + number,
            sampling_steps=arguments.steps,
            cfg=arguments.cfg,
            width_px=width,
            height_px=height,
            sampler=arguments.sampler,
        )
        for prompt in arguments.prompt
        for number in range(arguments.count)
    ]
    images = draw(base, pictures, on_step=_progress)
    print(file=sys.stderr)
    used = "".join(f", <lora:{w.path.stem}:{w.weight:g}>" for w in arguments.adapter)
    files = []
    for index, (picture, image) in enumerate(zip(pictures, images, strict=True)):
        path = arguments.out / f"{index:03d}-{_slug(picture.prompt)}-{picture.seed}.png"
        save_png(image, path, picture.parameters() + used)
        files.append(str(path))
    print(json.dumps({"files": files}, indent=2) if arguments.json else "\n".join(files))
    return 0


def _load(arguments: argparse.Namespace) -> DiffusionBase:
    from lora_diffusion.families import load_base
    from lora_diffusion.formats import load_adapter
    from lora_diffusion.injection import attach
    from trainers import devices
    from trainers.progress import silence_libraries
    from trainers.spec import ModelSpec

    placement = devices.choose(ModelSpec(device=arguments.device, precision=arguments.precision))
    silence_libraries()
    base = load_base(
        arguments.base,
        device=placement.device,
        dtype=placement.dtype,
        tokenizer=arguments.tokenizer,
        prediction=arguments.prediction,
        zero_snr=arguments.zero_snr,
        clip_skip=arguments.clip_skip,
        on_progress=lambda text: print(text, file=sys.stderr),
    )
    shapes = base.shapes()
    for number, weighted in enumerate(arguments.adapter):
        handle = attach(base.parts, load_adapter(weighted.path, shapes), name=f"adapter{number}")
        handle.scale = weighted.weight
    return base


def _size(text: str | None, native_px: int) -> tuple[int, int]:
    if text is None:
        return native_px, native_px
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if not match:
        raise InputError(f"--size {printable(text)}: write it as 512 or 512x768.")
    return int(match[1]), int(match[2] or match[1])


def _progress(done: int, total: int) -> None:
    print(f"\rdrawing {100 * done // total}%", end="", file=sys.stderr, flush=True)


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:_SLUG_LENGTH].strip("-") or "picture"


VERB = Verb("generate", "Draw pictures with a base and weighted adapters.", _configure, _run)
