"""The composition score as a function that `lora-diffusion search-weights --score` calls.

    lora-diffusion search-weights CHARACTER STYLE --out DIR \
      --score benchmarks.fidelity.judge:composition --cfg 2 \
      --prompt "zwx style, a sks creature on a red background" --prompt …

Take other prompts and seeds than the scorer's own, by which the weights are judged afterwards.
"""

from __future__ import annotations

from statistics import mean

from PIL import Image

from .composition import MIN_PARTS, PART_SHARE, Mix, read_mix

_NEARLY = 0.2  # of a strict picture: what one that has everything but strictness counts


def composition(pictures: list[Image.Image], prompts: list[str]) -> float:
    """Share of pictures that pass as the character in ink; ones that nearly do count a little.

    The background that a picture should have is its prompt's last word but one.
    """
    read = [read_mix(p, prompt.split()[-2]) for p, prompt in zip(pictures, prompts, strict=True)]
    return mean((1 - _NEARLY) * mix.strict + _NEARLY * _nearly(mix) for mix in read)


def _nearly(mix: Mix) -> float:
    """How much of what a strict picture needs is there, 0 to 1."""
    parts = sum(share >= PART_SHARE for share in mix.parts.values())
    return (mix.drawing.line + mix.drawing.paled + min(1.0, parts / MIN_PARTS)) / 3
