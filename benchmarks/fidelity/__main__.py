"""The scorer's command line; see the package's docstring."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from statistics import mean

import torch
from PIL import Image

from assets.demo_making.score import GUIDANCE, SAMPLE_STEPS, save_sheet
from lora_diffusion.bundled import resolve
from lora_diffusion.composition.live import compose
from lora_diffusion.composition.weights import Weights
from lora_diffusion.families import DiffusionBase, load_base

from . import validation
from .character import SECOND
from .measure import (
    Draw,
    Tally,
    adapters_on,
    drawer,
    measure_base,
    measure_character,
    measure_mix,
    measure_others,
    measure_pair,
    measure_style,
    others_right,
    pair_drawer,
)
from .prompts import other_prompts

Measure = Callable[[Draw, int, Tally], list[Image.Image]]
MEASURES: dict[str, Measure] = {
    "character": measure_character,
    "second": partial(measure_character, who=SECOND),
    "style": measure_style,
}
SHEET_SCALE = 2


def main() -> None:
    """Run one verb."""
    options = _parse()
    torch.set_num_threads(options.threads)
    base = load_base(options.base)
    print(
        f"{options.verb}: {options.base}, DDIM {SAMPLE_STEPS} steps, "
        f"guidance {options.guidance:g}, drawing seeds {' '.join(map(str, options.seeds))}, "
        f"{date.today()}"
    )
    if options.verb == "validate":
        _validate(base)
    elif options.verb == "base":
        _report(base, [([], seed) for seed in options.seeds], measure_base, options)
    elif options.verb in ("compose", "pair"):
        if len(options.adapters) != 2:
            raise SystemExit(f"{options.verb} takes two adapters, the character's first")
        for weights in options.weights:
            _compose(base, weights, options)
    else:
        _report(base, _runs(options.adapters, options.seeds), MEASURES[options.verb], options)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.fidelity", description=__doc__)
    parser.add_argument("verb", choices=["validate", "base", *MEASURES, "compose", "pair"])
    parser.add_argument("adapters", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--base", default="bundled:demo_base")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2],
        help="of the drawing; as many adapters as seeds take one each, else every one takes all",
    )  # fmt: skip
    parser.add_argument(
        "--weights", nargs="+", type=_weights, default=[_weights("1/1")], metavar="A/B",
        help="of both adapters, for compose and pair: numbers, or as generate takes them",
    )  # fmt: skip
    parser.add_argument("--no-forgetting", action="store_true", help="leave out the other prompts")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="save the first run's pictures")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", default=Path("runs/fidelity"),
        help="where the base's own adherence is kept between calls",
    )  # fmt: skip
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help=f"default {GUIDANCE:g}")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _weights(text: str) -> tuple[Weights, Weights]:
    first, _, second = text.partition("/")
    return Weights.parse(first), Weights.parse(second)


def _compose(
    base: DiffusionBase, weights: tuple[Weights, Weights], options: argparse.Namespace
) -> None:
    print(f"weights {weights[0]} and {weights[1]}")
    tally = Tally()
    with compose(base, list(zip(options.adapters, weights, strict=True))) as composition:
        if options.verb == "pair":
            draw, measure = pair_drawer(base, options.guidance, composition), measure_pair
        else:
            draw, measure = drawer(base, options.guidance, composition), measure_mix
        sheets = [measure(draw, seed, tally) for seed in options.seeds]
    _conclude(tally, sheets[0], options)


def _runs(adapters: list[Path], seeds: list[int]) -> list[tuple[list[tuple[Path, float]], int]]:
    """(adapters with weights, drawing seed) of every run."""
    if not adapters:
        raise SystemExit("name at least one adapter file")
    if len(adapters) == len(seeds):
        pairs = list(zip(adapters, seeds, strict=True))
    else:
        pairs = [(adapter, seed) for adapter in adapters for seed in seeds]
    return [([(adapter, 1.0)], seed) for adapter, seed in pairs]


def _report(
    base: DiffusionBase,
    runs: list[tuple[list[tuple[Path, float]], int]],
    measure: Measure,
    options: argparse.Namespace,
) -> None:
    tally, sheet, draw = Tally(), [], drawer(base, options.guidance)
    compares = options.verb in MEASURES and not options.no_forgetting
    for weighted, seed in runs:
        before = _base_share(draw, seed, options) if compares else 0.0
        with adapters_on(base, weighted):
            pictures = measure(draw, seed, tally)
            if compares:
                measure_others(draw, seed, tally, before)
        sheet = sheet or pictures
    _conclude(tally, sheet, options)


def _conclude(tally: Tally, sheet: list[Image.Image], options: argparse.Namespace) -> None:
    print("\n".join(tally.lines()), flush=True)
    if options.sheet is not None:
        width, height = (SHEET_SCALE * side for side in sheet[0].size)
        large = [p.resize((width, height), Image.Resampling.LANCZOS) for p in sheet]
        save_sheet(large, options.sheet, columns=8 if width == height else 4)


def _base_share(draw: Draw, seed: int, options: argparse.Namespace) -> float:
    """The base's own share of all right on the other prompts, drawn once for each base."""
    weights = sorted(Path(resolve(options.base)).rglob("*.safetensors"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest()[:12]
    kept = options.cache / f"base-{digest}-{SAMPLE_STEPS}-{options.guidance:g}-{seed}.json"
    if kept.exists():
        return float(json.loads(kept.read_text(encoding="utf-8"))["all right"])
    prompts = other_prompts()
    right = others_right(prompts, draw(prompts, seed))
    shares = {name: mean(map(float, hits)) for name, hits in right.items()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(shares, indent=2) + "\n", encoding="utf-8")
    return shares["all right"]


def _validate(base: DiffusionBase) -> None:
    made = validation.cases()
    for title, vae in (("drawn pictures", None), ("their VAE reconstructions", base)):
        print(f"\n{title}, {validation.COUNT} a row")
        outcomes = validation.check(made, vae)
        print("\n".join(map(str, outcomes)))
        shape, colour, ground = validation.ink_readings(base=vae)
        print(f"ink reader: shape {shape:.1%}, colour {colour:.1%}, background {ground:.1%}")
        if not all(outcome.right for outcome in outcomes):
            raise SystemExit("a score does not hold on known truth: its figures mean nothing")


if __name__ == "__main__":
    main()
