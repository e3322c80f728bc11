"""`lora-diffusion search-weights FILE … --toward PICTURES`: weights of a composition, found."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_diffusion.composition.weights import Weights
from lora_diffusion.errors import InputError, printable
from trainers.cli.base_flags import add_base_flags, open_base
from trainers.cli.replacing import Output
from trainers.cli.verb import Verb
from trainers.cli.weighted import FORM, Weighted
from trainers.search.knobs import PER

if TYPE_CHECKING:
    from lora_diffusion.composition.live import Composition
    from lora_diffusion.generate import PictureSpec
    from trainers.search.knobs import Knob
    from trainers.search.scores import Score

_JOURNAL, _RESULT = "trials.log", "weights.json"


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        metavar=FORM,
        nargs="+",
        type=Weighted.parse,
        help="adapters to weigh; weights that are given are tried first",
    )
    add_base_flags(parser)
    aim = parser.add_argument_group("what is maximised: one of --toward and --score")
    aim.add_argument(
        "--toward",
        metavar="PICTURES",
        type=Path,
        help="folder of a few captioned pictures: how much less error the base makes on them",
    )
    aim.add_argument(
        "--score",
        metavar="FILE.py:FUNCTION",
        help="your own function of (pictures, prompts), called with what --prompt draws",
    )
    aim.add_argument("--prompt", action="append", default=[], help="for --score; may be repeated")
    aim.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    aim.add_argument("--steps", type=int, default=20, help="denoising steps (default 20)")
    aim.add_argument("--cfg", type=float, default=7.0, help="guidance scale (default 7)")
    aim.add_argument(
        "--timesteps", type=int, default=8, help="for --toward: how many, evenly (default 8)"
    )
    parser.add_argument(
        "--held_out",
        metavar="PICTURES",
        type=Path,
        help="other captioned pictures, on which what was found is judged",
    )
    parser.add_argument("--per", choices=PER, default="adapter", help="one weight for each")
    parser.add_argument("--low", type=float, default=0.0, help="least weight (default 0)")
    parser.add_argument("--high", type=float, default=1.5, help="largest weight (default 1.5)")
    parser.add_argument("--trials", type=int, default=60, help="how many weights to try in all")
    parser.add_argument(
        "--regulariser", type=float, default=0.002, help="cost of a mean weight of 1 (0.002)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder of the trials, with which the same command goes on, and of the result",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    from lora_diffusion.composition.live import compose
    from lora_diffusion.files import write_text
    from lora_diffusion.formats.reading import lay_out_opened, open_adapter
    from trainers.search import scores
    from trainers.search.knobs import knobs, to_weights
    from trainers.search.study import search

    judge = scores.load_judge(arguments.score) if arguments.score else None
    paths = [each.path for each in arguments.files]
    laid = [lay_out_opened(open_adapter(path)) for path in paths]
    base = open_base(arguments)
    measures: dict[str, Score] = {
        name: scores.toward(base, folder, timesteps=arguments.timesteps, seed=arguments.seed)
        for name, folder in (("toward", arguments.toward), ("held out", arguments.held_out))
        if folder
    }
    with compose(base, [(path, 1.0) for path in paths]) as composition:
        files = dict(zip(composition.names, map(str, paths), strict=True))
        given = dict(zip(files, (each.weights for each in arguments.files), strict=True))
        if judge is not None:
            pictures = _pictures(arguments, base.native_size_px)
            measures["score"] = scores.judged(composition, pictures, judge)
        aim = measures["score" if judge else "toward"]
        layers = zip(files, laid, strict=True)
        turned = knobs(
            {name: [one.key for one in each.layers] for name, each in layers}, arguments.per
        )
        found = search(
            turned,
            lambda numbers: _scored(composition, to_weights(numbers), aim),
            low=arguments.low,
            high=arguments.high,
            trials=arguments.trials,
            regulariser=arguments.regulariser,
            starts=_starts(turned, given),
            file=arguments.out / _JOURNAL,
            identity=_identity(arguments),
            seed=arguments.seed,
            on_trial=_progress,
        )
        print(file=sys.stderr)
        compared = {
            "found": to_weights(found.numbers),
            "equal, 1 each": {name: Weights() for name in files},
            f"equal, 1/{len(files)} each": {name: Weights(1 / len(files)) for name in files},
        }
        if any(own != Weights() for own in given.values()):
            compared["given"] = given
        weights = {files[name]: str(own) for name, own in compared["found"].items()}
        told = {
            "weights": weights,
            "score": found.score,
            "trials": found.trials,
            "scores": {
                what: {name: _scored(composition, at, measure) for name, at in compared.items()}
                for what, measure in measures.items()
            },
        }
    told["command"] = _command(arguments, weights)
    write_text(arguments.out / _RESULT, json.dumps(told, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        _print(told)
    return 0


def _replaced(arguments: argparse.Namespace) -> list[Path]:
    """The trials are gone on with, or refused where they are of another search."""
    return [] if (arguments.out / _JOURNAL).exists() else [arguments.out / _RESULT]


VERB = Verb(
    "search-weights",
    "Find the weights at which several adapters work best.",
    _configure,
    _run,
    output=Output(paths=_replaced),
)


def _check(arguments: argparse.Namespace) -> None:
    if bool(arguments.toward) == bool(arguments.score):
        raise InputError("Give one of --toward and --score: what the weights are to maximise.")
    if arguments.score and not arguments.prompt:
        raise InputError("--score needs at least one --prompt to draw.")
    if not arguments.low < arguments.high:
        raise InputError("--low must be less than --high.")
    if min(arguments.trials, arguments.timesteps, arguments.steps) < 1:
        raise InputError("--trials, --timesteps and --steps must be at least 1.")


def _pictures(arguments: argparse.Namespace, side_px: int) -> list[PictureSpec]:
    from lora_diffusion.generate import PictureSpec

    return [
        PictureSpec(
            prompt=prompt,
            seed=arguments.seed + number,
            sampling_steps=arguments.steps,
            cfg=arguments.cfg,
            width_px=side_px,
            height_px=side_px,
        )
        for number, prompt in enumerate(arguments.prompt)
    ]


def _scored(composition: Composition, weights: Mapping[str, Weights], score: Score) -> float:
    for name, own in weights.items():
        composition.set_weights(name, own)
    return score()


def _starts(turned: Sequence[Knob], given: Mapping[str, Weights]) -> list[dict[Knob, float]]:
    """What was given, then all at 1, all at an equal share of 1, and each alone."""
    level = [dict.fromkeys(turned, 1.0), dict.fromkeys(turned, 1 / len(given))]
    alone = [{knob: float(knob.adapter == name) for knob in turned} for name in given]
    first = {knob: knob.read(given[knob.adapter]) for knob in turned}
    return [first, *level, *(alone if len(given) > 1 else [])]


def _identity(arguments: argparse.Namespace) -> dict[str, object]:
    """What the scores depend on: of files their bytes, not their names."""
    from lora_diffusion.formats.hash import file_hashes
    from lora_diffusion.formats.reading import open_adapter
    from trainers.data.cache import file_digest
    from trainers.data.scan import scan

    pieces = [piece for each in arguments.files for piece in open_adapter(each.path).pieces]
    known: dict[str, object] = {
        name: getattr(arguments, name)
        for name in (
            *("base", "clip_skip", "prediction", "zero_snr", "precision", "score", "prompt"),
            *("seed", "steps", "cfg", "timesteps", "per", "low", "high", "regulariser"),
        )
    }
    known["adapters"] = [file_hashes(piece.header.path).sha256 for piece in pieces]
    if arguments.toward:
        shown = scan(arguments.toward, default_caption=None)
        known["toward"] = [(file_digest(picture.path), picture.caption) for picture in shown]
    return known


def _command(arguments: argparse.Namespace, weights: Mapping[str, str]) -> str:
    prompt = arguments.prompt[0] if arguments.prompt else "..."
    words = ["lora-diffusion", "generate", "--base", arguments.base]
    for file, own in weights.items():
        words += ["--adapter", f"{file}:{own}"]
    return shlex.join([*words, "--prompt", prompt, "--out", "pictures"])


def _progress(done: int, total: int, value: float, best: float) -> None:
    print(
        f"\rtrial {done} of {total}: {value:.4f}, best {best:.4f}",
        end="", file=sys.stderr, flush=True,
    )  # fmt: skip


def _print(told: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False, highlight=False)
    for file, weights in told["weights"].items():
        console.print(f"{printable(file, 400)}: {weights}", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for what in told["scores"]:
        table.add_column(what, justify="right")
    for name in next(iter(told["scores"].values())):
        table.add_row(name, *(f"{scores[name]:.4f}" for scores in told["scores"].values()))
    console.print(table)
    console.print(f"{told['trials']} trials. Draw with them:\n{told['command']}", soft_wrap=True)
