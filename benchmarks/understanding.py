"""The figures of docs/analysis.md, by one command.

    python -m benchmarks.understanding

It trains the demo character at rank 8 and, with two seeds, at rank 64, and the demo style; then it
compares their subspaces (Hu et al., arXiv:2106.09685, sections 7.2 and 7.3), tells where character
and style interfere, searches their weights, and measures the character's intrinsic dimension. What
lies in `--runs` already is not done again. The pictures go to docs/pictures, the tables into the
marked parts of docs/analysis.md. About an hour on two idle cores, most of it for the intrinsic
dimension.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from assets.demo_making.scenes import CHARACTER_WORD, STYLE_WORD
from benchmarks import intrinsic_dimension
from benchmarks.fidelity.validation import drawn_mixes
from benchmarks.intrinsic_dimension import Trial, best_by_dimension, d90
from lora_diffusion.analyse.pictures import draw_all, draw_curve, draw_subspaces
from lora_diffusion.analyse.results import Amplified, Analysis, grouped, read
from lora_diffusion.files import write_text

ROOT = Path(__file__).parents[1]
PAGE, PICTURES = ROOT / "docs" / "analysis.md", ROOT / "docs" / "pictures"
_TOWARD, _HELD_OUT = (6, 11), (24, 12)  # pictures, seed
_TRIALS = 40
# Every rank has the alpha of the first, as in the paper (section 4.1).
_RUNS = {
    "rank8": ("demo-character", []),
    "rank64": ("demo-character", ["--adapter.rank", "64", "--adapter.alpha", "8"]),
    "rank64-again": (
        "demo-character",
        ["--adapter.rank", "64", "--adapter.alpha", "8", "--schedule.seed", "1"],
    ),
    "style": ("demo-style", []),
}
_SHOWN = (("rank8", "rank64"), ("rank64", "rank64-again"))


def train(runs: Path, name: str) -> Path:
    """The adapter of one run, trained now if it is not there."""
    adapter = runs / name / f"{name}.safetensors"
    if not adapter.exists():
        preset, settings = _RUNS[name]
        command = [sys.executable, "-m", "trainers.dreambooth_lora", "--preset", preset]
        command += ["--output_dir", str(runs / name), "--preview.enabled", "false", *settings]
        subprocess.run(command, check=True)
    return adapter


def analyse(out: Path, adapters: Iterable[Path], *options: str) -> Analysis:
    """What `lora-diffusion analyse` finds."""
    command = [sys.executable, "-m", "trainers.cli", "analyse", *map(str, adapters)]
    subprocess.run([*command, *options, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    return read(out / "analysis.json")


def subspace_table(found: Analysis) -> str:
    """phi of the strongest directions, and of all, beside chance."""
    rows = ["| pair | of | φ(1, 1) | φ(8, 8) | φ(8, 64) | by chance |", "|---|---|---|---|---|---|"]
    for one in found.subspaces:
        if (one.first, one.second) not in _SHOWN:
            continue
        places = [(i, j) for i, j in ((1, 1), (8, 8), (8, 64)) if i <= len(one.phi)]
        told = " | ".join(f"{one.phi[i - 1][j - 1]:.2f}" for i, j in places)
        chance = ", ".join(f"{one.chance[i - 1][j - 1]:.2f}" for i, j in places)
        what = "A" if one.of == "A" else "update"
        rows.append(f"| {one.first} with {one.second} | {what} | {told} | {chance} |")
    return "\n".join(rows)


def amplification_table(found: Analysis, adapter: str) -> str:
    """Medians over the layers of each block."""
    rows = [
        f"| block ({adapter}) | layers | ‖ΔW‖ | ‖UᵀW₀V‖ of ΔW | of W₀ itself | random | factor |",
        "|---|---|---|---|---|---|---|",
    ]
    own = [row for row in found.amplification if row.adapter == adapter]
    blocks = grouped(own, lambda row: row.block)
    for block, layers in [*sorted(blocks.items(), key=_downwards), ("all", own)]:

        def middle(name: str, layers: list[Amplified] = layers) -> str:
            return f"{median(getattr(layer, name) for layer in layers):.2f}"

        names = ("update_norm", "base_in_update", "base_in_own", "base_in_random", "factor")
        rows.append(f"| {block} | {len(layers)} | {' | '.join(map(middle, names))} |")
    return "\n".join(rows)


def _downwards(item: tuple[str, list[Amplified]]) -> tuple[int, str]:
    order = ("text", "conv_in", "time", "down", "mid", "up", "conv_out")
    return next(n for n, name in enumerate(order) if item[0].startswith(name)), item[0]


def intrinsic_part(file: Path) -> str:
    """The table of the intrinsic dimension; draws its picture."""
    told = json.loads(file.read_text(encoding="utf-8"))
    trials = [Trial(**each) for each in told["trials"]]
    best = best_by_dimension(trials)
    whole = told["score_of_all"]
    reached = "not reached" if told["d90"] is None else f"{told['d90']:,.0f}"
    draw_curve(
        {float(d): score for d, score in best.items() if d != told["all_weights"]},
        0.9 * whole,
        f"Intrinsic dimension of the demo character: d90 {reached}",
        f"error gone on held-out pictures; dashed: 90 % of what all weights reach ({whole:.0%})",
        "numbers trained, d",
        PICTURES / "intrinsic_dimension.png",
    )
    rows = ["| numbers trained | error gone | of what all weights reach |", "|---|---|---|"]
    rows += [f"| {d:,} | {score:.1%} | {score / whole:.0%} |" for d, score in best.items()]
    share = "" if told["d90"] is None else f", {told['d90'] / told['all_weights']:.1%} of all"
    projected = [trial for trial in trials if trial.dimension != told["all_weights"]]
    most = max(trial.score for trial in projected)
    rows += [
        "",
        f"d90 = **{reached}**{share} ({told['steps']} steps each); 90 % of what any projection "
        f"reaches takes {d90(projected, most):,.0f} numbers.",
    ]
    return "\n".join(rows)


def draw_mixes(folder: Path, count: int, seed: int) -> Path:
    """Captioned pictures of the character in the style, as the scores are validated with."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (picture, background) in enumerate(drawn_mixes(count, seed)):
        picture.save(folder / f"{number:02}.png")
        caption = f"{STYLE_WORD} style, a {CHARACTER_WORD} creature on a {background} background"
        (folder / f"{number:02}.txt").write_text(caption, encoding="utf-8")
    return folder


def search_table(runs: Path, adapters: Iterable[Path]) -> str:
    """Weights found toward a few pictures, and equal ones, on those and on others."""
    command = [sys.executable, "-m", "trainers.cli", "search-weights", *map(str, adapters)]
    command += ["--toward", str(draw_mixes(runs / "toward", *_TOWARD))]
    command += ["--held_out", str(draw_mixes(runs / "held_out", *_HELD_OUT))]
    command += ["--trials", str(_TRIALS), "--out", str(runs / "search")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    told = json.loads((runs / "search" / "weights.json").read_text(encoding="utf-8"))
    found = ", ".join(told["weights"].values())
    rows = [
        f"| weights: character, style | the {_TOWARD[0]} | {_HELD_OUT[0]} held out |",
        "|---|---|---|",
    ]
    for name, score in told["scores"]["toward"].items():
        what = f"found: {found} ({told['trials']} trials)" if name == "found" else name
        rows.append(f"| {what} | {score:.1%} | {told['scores']['held out'][name]:.1%} |")
    return "\n".join(rows)


def write_page(part: str, texts: Iterable[str]) -> None:
    """Put texts into the part of the page between `<!-- PART: begin -->` and its end."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    write_text(PAGE, "\n\n".join([before + begin, *texts, end + after]))


def main() -> None:
    """Make every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/understanding"), metavar="DIR")
    options = parser.parse_args()
    adapters = {name: train(options.runs, name) for name in _RUNS}
    base = ("--base", "bundled:demo_base")
    ranks = [adapters[name] for name in ("rank8", "rank64", "rank64-again")]
    found = analyse(options.runs / "ranks", ranks, *base)
    shown = [one for one in found.subspaces if (one.first, one.second) in _SHOWN and one.of == "A"]
    PICTURES.mkdir(exist_ok=True)
    draw_subspaces(shown, PICTURES / "subspaces.png")
    mixed = analyse(options.runs / "mixed", [adapters["rank8"], adapters["style"]], *base)
    for path in draw_all(mixed, options.runs / "mixed"):
        if path.name.startswith("interference"):
            path.replace(PICTURES / "interference.png")
    file = intrinsic_dimension.measure(
        options.runs,
        intrinsic_dimension.DIMENSIONS,
        intrinsic_dimension.RATES,
        intrinsic_dimension.STEPS,
    )
    write_page("search", [search_table(options.runs, [adapters["rank8"], adapters["style"]])])
    write_page(
        "figures",
        [
            "![φ of two ranks and of two seeds](pictures/subspaces.png)",
            subspace_table(found),
            amplification_table(found, "rank8"),
            amplification_table(found, "rank64"),
            "![Score over d](pictures/intrinsic_dimension.png)",
            intrinsic_part(file),
        ],
    )


if __name__ == "__main__":
    main()
