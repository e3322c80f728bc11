"""`lora-diffusion probe --arch ARCH --kind KIND … --out FILE`: random factors of true size."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats import DTYPES, FORMATS, TrainingFacts
from lora_diffusion.formats.arch import ARCHS
from lora_diffusion.formats.metadata import kind_arguments
from trainers.cli.replacing import Output
from trainers.cli.verb import Verb
from trainers.spec import MAX_RANK

if TYPE_CHECKING:
    from lora_diffusion.adapter import AdapterFile

LOCON = "locon"
KINDS = ("lora", LOCON, "dora", "loha", "lokr")
# What the published models predict; of SD 2.1 that is the one of 768 px.
_PREDICTIONS = {"sd15": "epsilon", "sd21": "v_prediction", "sdxl": "epsilon"}
_DESCRIPTION = "Random numbers, to try programs with; it draws nothing in particular."


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", choices=ARCHS, required=True, help="whose layers it has")
    parser.add_argument("--kind", choices=KINDS, default="lora", help="how they are factored")
    parser.add_argument(
        "--targets",
        help="UNet layers: attn, attn+ff, transformer (plus proj_in/out, kohya's default and this "
        "command's), all (plus convolutions, locon's default), none, or patterns",
    )
    parser.add_argument(
        "--text-targets",
        default="transformer",
        help="text-encoder layers, likewise; none leaves them out, as --format lycoris must",
    )
    parser.add_argument("--rank", type=rank, default=16, help="r of every layer")
    parser.add_argument("--alpha", type=alpha, help="numerator of the scale; default: the rank")
    parser.add_argument("--seed", type=int, default=0, help="the numbers follow from it")
    parser.add_argument("--out", metavar="FILE", required=True, help="for peft, a folder")
    parser.add_argument("--format", choices=FORMATS, default="kohya", help="whose dialect")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="numbers in the file")
    parser.add_argument(
        "--dora-axis", choices=("in", "out"), default="in", help="dora: whose norms it has"
    )
    parser.add_argument("--lokr-factor", type=rank, help="lokr: how channels are split")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    from lora_diffusion.formats import save_adapter
    from lora_diffusion.injection import AdapterConfig
    from lora_diffusion.probe import probe

    kind: str = arguments.kind
    is_locon = kind == LOCON
    config = AdapterConfig(
        kind="lora" if is_locon else arguments.kind,
        dora_axis=arguments.dora_axis,
        lokr_factor=arguments.lokr_factor,
        targets=arguments.targets or ("all" if is_locon else "transformer"),
        text_targets=arguments.text_targets,
        rank=arguments.rank,
        alpha=arguments.alpha,
        seed=arguments.seed,
    )
    adapter = probe(arguments.arch, config)
    if is_locon and not _has_kernels(adapter):
        raise InputError(
            f"--targets {printable(config.targets)} has no convolution above 1x1, so it is a plain "
            "LoRA. Set --targets all, or --kind lora."
        )
    out = Path(arguments.out).expanduser()
    told_kind = kind_arguments(config.kind, config.dora_axis, config.lokr_factor)
    facts = TrainingFacts(
        arch=arguments.arch,
        prediction=_PREDICTIONS[arguments.arch],
        kind=kind,
        rank=config.rank,
        alpha=float(config.rank if config.alpha is None else config.alpha),
        network_args=told_kind | {"targets": config.targets},
        seed=config.seed,
        description=_DESCRIPTION,
    )
    try:
        notes = save_adapter(
            adapter, out, dtype=arguments.dtype, format=arguments.format, facts=facts
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{printable(out.name)}: it cannot be written ({reason}).") from error
    if arguments.json:
        told = {
            "out": printable(out, 4_096),
            "format": arguments.format,
            "modules": adapter.modules_by_part(),
            "notes": list(notes),
        }
        print(json.dumps(told, indent=2))
        return 0
    for note in notes:
        print(f"note: {printable(note, 400)}", file=sys.stderr)
    parts = ", ".join(f"{part} {count}" for part, count in adapter.modules_by_part().items())
    print(f"{printable(out, 4_096)}: {len(adapter.layers)} layers ({parts}).")
    return 0


VERB = Verb(
    "probe",
    "Write random factors of true size, to try programs with.",
    _configure,
    _run,
    output=Output(),
)


def _has_kernels(adapter: AdapterFile) -> bool:
    return any(max(f.weight_shape[2:], default=1) > 1 for f in adapter.layers.values())


def rank(text: str) -> int:
    """A rank, or a number of channels."""
    number = int(text)
    if not 1 <= number <= MAX_RANK:
        raise argparse.ArgumentTypeError(f"{number} is not between 1 and {MAX_RANK}")
    return number


def alpha(text: str) -> float:
    """A number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number
