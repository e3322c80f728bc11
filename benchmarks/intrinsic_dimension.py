"""How many numbers the demo character needs: its intrinsic dimension.

    python -m benchmarks.intrinsic_dimension --out DIR

Aghajanyan et al., "Intrinsic Dimensionality Explains the Effectiveness of Language Model
Fine-Tuning" (arXiv:2012.13255), section 3, after Li et al. (arXiv:1804.08838): all weights of the
UNet are theta_0 + P theta_d, where only the d numbers of theta_d are trained and P is a fixed
random projection (Fastfood, Le et al., arXiv:1408.3060). d90 is the smallest d that reaches 90 %
of what training every weight reaches.

Reached is measured on pictures that nothing was trained on, as the share of the base's denoising
error that is gone (`trainers.search.denoising`); the papers use a task's accuracy. Everything is
trained as long, each d at every rate in `--rates`; the best one counts.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from assets.demo_making.scenes import PICTURE_PX, character_set
from lora_diffusion.families import DiffusionBase, load_base
from lora_diffusion.families.base import Conditioning
from lora_diffusion.files import write_text
from lora_diffusion.randomness import generator, normal
from trainers.data.scan import Picture, scan
from trainers.diffusion import NoiseSchedule
from trainers.search.denoising import Denoising, share_explained

DIMENSIONS = (64, 256, 1_024, 4_096, 16_384, 65_536, 262_144)
RATES = (1e-3, 4e-3)
STEPS = 100
BATCH = 8
TRAINED, HELD_OUT = 64, 32  # pictures
_WARM_UP, _CLIP = 10, 1.0


class Fastfood:
    """P: d numbers to D, by blocks of d rows, each block H G Pi H B / d.

    H is Hadamard's matrix, Pi a permutation, G normal and B +-1, all of each block's own (Le et
    al., section 3.1, without the length-changing S). Rows have length 1 on average, so that a
    step of Adam moves each of the D numbers about as far whatever d is.
    """

    def __init__(self, small: int, large: int, seed: int) -> None:
        blocks = -(-large // small)
        source = generator("fastfood", small, large, seed)
        self.large = large
        self._signs = torch.randint(0, 2, (blocks, small), generator=source).float() * 2 - 1
        self._gains = torch.randn(blocks, small, generator=source)
        self._order = torch.rand(blocks, small, generator=source).argsort(1)  # Pi
        self._back = self._order.argsort(1)

    def up(self, theta: Tensor) -> Tensor:
        """P theta: `[d]` to `[D]`."""
        mixed = _hadamard(self._signs * theta)  # [blocks, d]
        mixed = self._gains * mixed.gather(1, self._order)
        return _hadamard(mixed).flatten()[: self.large]

    def down(self, gradient: Tensor) -> Tensor:
        """P^T gradient: `[D]` to `[d]`."""
        blocks, small = self._signs.shape
        padded = gradient.new_zeros(blocks * small)
        padded[: self.large] = gradient
        mixed = self._gains * _hadamard(padded.view(blocks, small))
        return (self._signs * _hadamard(mixed.gather(1, self._back))).sum(0)


def _hadamard(rows: Tensor) -> Tensor:
    """H x / sqrt(d) of every row `[n, d]`, d a power of 2, as two products with smaller H."""
    bits = rows.shape[1].bit_length() - 1
    left, right = _sylvester(bits // 2), _sylvester(bits - bits // 2)
    cube = rows.view(-1, left.shape[0], right.shape[0])
    return (left @ (cube @ right)).reshape(rows.shape) / math.sqrt(rows.shape[1])


def _sylvester(bits: int) -> Tensor:
    matrix = torch.ones(1, 1)
    for _ in range(bits):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


@dataclass(frozen=True)
class Trial:
    """One training: d (D where all weights train), its rate, and what it reached."""

    dimension: int
    rate: float
    score: float
    seconds: float


def train(
    base: DiffusionBase, taught: Denoising, dimension: int | None, rate: float, steps: int
) -> None:
    """Train the UNet's weights as theta_0 + P theta_d in place; None trains each of them."""
    parameters = list(base.unet.parameters())
    start = torch.nn.utils.parameters_to_vector(parameters).detach().clone()  # theta_0 [D]
    projection = None if dimension is None else Fastfood(dimension, len(start), seed=0)
    theta = torch.zeros(dimension or len(start), requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=rate)
    schedule = NoiseSchedule(base)
    with torch.no_grad():
        captions = {text: base.encode_prompts([text]) for text in set(taught.captions)}
    for parameter in parameters:
        parameter.requires_grad_(True)
    for step in range(steps):
        base.unet.zero_grad()
        _loss(base, schedule, taught, captions, step).backward()
        gradient = torch.cat([_gradient(p).flatten() for p in parameters])
        theta.grad = gradient if projection is None else projection.down(gradient)
        torch.nn.utils.clip_grad_norm_([theta], _CLIP)
        share = min(1.0, (step + 1) / _WARM_UP)
        optimizer.param_groups[0]["lr"] = rate * share * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        with torch.no_grad():
            moved = theta if projection is None else projection.up(theta)
            torch.nn.utils.vector_to_parameters(start + moved, parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)


def _loss(
    base: DiffusionBase,
    schedule: NoiseSchedule,
    taught: Denoising,
    captions: dict[str, Conditioning],
    step: int,
) -> Tensor:
    source = generator("intrinsic dimension", step)
    chosen = torch.randint(0, len(taught.latents), (BATCH,), generator=source).tolist()
    times = torch.randint(0, len(schedule), (BATCH,), generator=source)
    clean = torch.cat([taught.latents[index] for index in chosen])
    noise = normal(tuple(clean.shape), "intrinsic dimension", step)
    told = Conditioning.cat([captions[taught.captions[index]] for index in chosen])
    said = base.predict(schedule.noised(clean, noise, times), times, told)
    snr = schedule.snr(times)
    weights = snr.clamp(max=0.5) / snr  # min-SNR, as the demo's own training
    errors = (said - schedule.target(clean, noise, times)).square().mean(dim=(1, 2, 3))
    return (weights * errors).mean()


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def d90(trials: Sequence[Trial], whole: float, share: float = 0.9) -> float | None:
    """The smallest d that reaches `share` of `whole`, between two measured d along log d.

    None where no d does.
    """
    best = best_by_dimension(trials)
    goal, before = share * whole, None
    for dimension, score in best.items():
        if score >= goal:
            if before is None:
                return float(dimension)
            low, reached = before
            part = (goal - reached) / (score - reached)
            return math.exp(math.log(low) + part * (math.log(dimension) - math.log(low)))
        before = (dimension, score)
    return None


def best_by_dimension(trials: Sequence[Trial]) -> dict[int, float]:
    """d -> the best score at any rate, d ascending."""
    best: dict[int, float] = {}
    for trial in sorted(trials, key=lambda trial: trial.dimension):
        best[trial.dimension] = max(trial.score, best.get(trial.dimension, -math.inf))
    return best


def measure(out: Path, dimensions: Sequence[int], rates: Sequence[float], steps: int) -> Path:
    """Every trial that `out/intrinsic_dimension.json` does not have yet; returns that file."""
    file = out / "intrinsic_dimension.json"
    base = load_base("bundled:demo_base")
    with tempfile.TemporaryDirectory() as folder:
        taught = Denoising(base, _pictures(Path(folder, "taught"), TRAINED, seed=101))
        held_out = Denoising(base, _pictures(Path(folder, "held_out"), HELD_OUT, seed=202))
    before = held_out.losses()
    start = [parameter.clone() for parameter in base.unet.parameters()]
    total = sum(parameter.numel() for parameter in start)
    known = json.loads(file.read_text(encoding="utf-8"))["trials"] if file.exists() else []
    trials = [Trial(**each) for each in known]
    for dimension in (total, *dimensions):
        for rate in rates:
            if any((t.dimension, t.rate) == (dimension, rate) for t in trials):
                continue
            began = time.monotonic()
            with torch.no_grad():
                for parameter, value in zip(base.unet.parameters(), start, strict=True):
                    parameter.copy_(value)
            train(base, taught, None if dimension == total else dimension, rate, steps)
            score = share_explained(held_out.losses(), before)
            trials.append(Trial(dimension, rate, score, round(time.monotonic() - began, 1)))
            print(trials[-1], flush=True)
            whole = best_by_dimension(trials)[total]
            reached = d90([t for t in trials if t.dimension != total], whole)
            told = {
                "d90": reached,
                "all_weights": total,
                "score_of_all": whole,
                "steps": steps,
                "trials": [asdict(trial) for trial in trials],
            }
            write_text(file, json.dumps(told, indent=2) + "\n")
    return file


def _pictures(folder: Path, count: int, seed: int) -> list[Picture]:
    folder.mkdir()
    for number, (picture, caption) in enumerate(character_set(seed, PICTURE_PX, count)):
        picture.save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(caption, encoding="utf-8")
    return scan(folder, default_caption=None)


def main() -> None:
    """Measure, and print the file with the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--dimensions", nargs="+", type=int, default=DIMENSIONS, metavar="D")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, metavar="RATE")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    print(measure(options.out, options.dimensions, options.rates, options.steps))


if __name__ == "__main__":
    main()
