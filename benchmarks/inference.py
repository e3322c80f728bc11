"""What adapters cost when drawing: merged and live inference, and switching, on true SD1.5 shape.

    python -m benchmarks.inference [--pairs N] [--threads N]

Each variant is timed next to the plain base, turn by turn, and the median of the ratios is
printed with its quartiles: on a busy machine single times drift, ratios of neighbours do not.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

import lora_diffusion.families
from lora_diffusion import compose
from lora_diffusion.adapter import AdapterFile
from lora_diffusion.composition.regions import Region
from lora_diffusion.composition.weights import Weights
from lora_diffusion.families import Conditioning
from lora_diffusion.formats import save_adapter
from lora_diffusion.injection import AdapterConfig, attach, inject
from lora_diffusion.keys import UNET

LATENT_SIDE = 16  # 128 px: what is compared is the same for any size
RANK = 8
CONTEXT = (2, 77, 768)  # one picture under guidance


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Adapters' cost at inference, true SD1.5 UNet.")
    parser.add_argument("--pairs", type=int, default=12, help="neighbouring pairs per ratio")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    unet, plain = true_unet(), true_unet()
    plain.load_state_dict(unet.state_dict())
    parts = {UNET: unet}
    print(
        f"SD1.5 UNet, random fp32 weights, rank {RANK} on attention; {platform.machine()}, "
        f"{options.threads} thread(s), torch {torch.__version__}, {date.today()}"
    )
    files = [random_adapter(unet, seed) for seed in (1, 2)]
    one, two = (attach(parts, file, name) for file, name in zip(files, "ab", strict=True))
    base = forward_of(plain)
    adapted = forward_of(unet)

    def compare(name: str) -> None:
        ratios = paired(adapted, base, options.pairs)
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:<34} {middle:.3f} of the base's time  [{low:.3f}, {high:.3f}]")

    two.enabled = False
    compare("one adapter, live")
    two.enabled = True
    compare("two adapters, live")
    one.enabled = two.enabled = False
    compare("two adapters, switched off")
    two.enabled = one.enabled = True
    print(f"merging both: {seconds(lambda: (one.merge(), two.merge())):.2f} s")
    compare("two adapters, merged")
    print(f"unmerging both: {seconds(lambda: (one.unmerge(), two.unmerge())):.2f} s")
    one.enabled = False

    def switch() -> None:
        one.enabled, two.enabled = two.enabled, one.enabled

    times = [seconds(switch) for _ in range(21)]
    print(f"switching between two loaded adapters: {1e3 * statistics.median(times):.2f} ms")
    two.remove()

    def exchange() -> None:
        attach(parts, files[1], "b").remove()

    times = [seconds(exchange) for _ in range(5)]
    print(f"attaching and removing one from memory: {1e3 * statistics.median(times):.0f} ms")
    one.remove()
    with tempfile.TemporaryDirectory() as folder:
        compositions(parts, files, Path(folder), compare)


def compositions(
    parts: Mapping[str, Any],
    files: list[AdapterFile],
    folder: Path,
    compare: Callable[[str], None],
) -> None:
    """Weights that change and files that come and go in a composition; a region for each."""
    paths = [folder / f"{name}.safetensors" for name in "ab"]
    for file, path in zip(files, paths, strict=True):
        save_adapter(file, path)
    with compose(parts, [(paths[0], 0.8)]) as composition:
        times = [seconds(partial(composition.add, paths[1])) for _ in range(5)]
        print(f"adding one from its file: {1e3 * statistics.median(times):.0f} ms")
        for name in composition.names[2:]:
            composition.remove(name)
        weights = Weights.parse("0.5,text=0,mid=0.2,down.1=0.3")
        times = [seconds(lambda: composition.set_weights("b", weights)) for _ in range(21)]
        print(f"new weights by block for one: {1e3 * statistics.median(times):.2f} ms")
        half = torch.cat([torch.ones(64, 32), torch.zeros(64, 32)], dim=1)
        composition.set_region("a", Region("left", half))
        composition.set_region("b", Region("right", half.flip(1)))
        prompt = Conditioning(torch.randn(*CONTEXT))
        composition.direct(0.0, (LATENT_SIDE, LATENT_SIDE), {"left": prompt, "right": prompt})
        compare("two adapters, a region each")


def true_unet() -> Any:
    """SD1.5's UNet with random weights."""
    from diffusers import UNet2DConditionModel

    folder = Path(lora_diffusion.families.__file__).parent / "configs" / "sd15" / "unet"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return UNet2DConditionModel.from_config(config).eval().requires_grad_(False)


def random_adapter(unet: Any, seed: int) -> AdapterFile:
    """An adapter of `RANK` on the attention layers, with B of a trained one's size."""
    handle = inject({UNET: unet}, AdapterConfig(rank=RANK, seed=seed), name="made")
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, adapter in handle.adapters():
            adapter.up.normal_(0, 1e-3, generator=source)
    file = handle.to_file("sd15")
    handle.remove()
    return file


def forward_of(unet: Any) -> Callable[[], object]:
    """One denoising step under guidance."""
    latents = torch.randn(2, 4, LATENT_SIDE, LATENT_SIDE)
    context = torch.randn(*CONTEXT)
    timestep = torch.tensor([500, 500])

    @torch.no_grad()
    def run() -> object:
        return unet(latents, timestep, encoder_hidden_states=context).sample

    return run


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def paired(
    one: Callable[[], object],
    other: Callable[[], object],
    pairs: int,
    clock: Callable[[Callable[[], object]], float] = seconds,
) -> list[float]:
    """time(one) / time(other) of neighbours, after a warm-up; which goes first alternates.

    clock: what times a call; wall time if it is left out.
    """
    one(), other()
    ratios = []
    for index in range(pairs):
        if index % 2:
            below, above = clock(other), clock(one)
        else:
            above, below = clock(one), clock(other)
        ratios.append(above / below)
    return ratios


if __name__ == "__main__":
    main()
