"""What it costs that the samples of a batch use different adapters, and to switch between them.

    python -m benchmarks.multi [--unet sd15|small] [--counts N,N] [--pairs N] [--threads N]
        [--way segments|padded]

On the true SD1.5 UNet with random weights, or one of a fifth of its width, adapters of rank 8 on
the attention, one for each sample. A batch of n samples under guidance is timed next to the same
batch without adapters, turn by turn, and the median of the ratios is printed with its quartiles;
beside it the n samples one by one, each with its adapter switched on. Ratios are of CPU time, which
other programs on the machine move less than wall time. Then what a switch takes, from the device,
from RAM and from disk; and what training four adapters takes, in one forward pass or by turns.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.inference import paired, random_adapter, seconds, true_unet
from benchmarks.step import batch_for, saved_bytes, small_unet
from lora_diffusion.composition.weights import Weights
from lora_diffusion.formats import save_adapter
from lora_diffusion.injection import AdapterConfig, inject
from lora_diffusion.keys import UNET
from lora_diffusion.multi import batch
from lora_diffusion.multi.batch import Mix, PerSample
from lora_diffusion.multi.pages import AdapterPages

RANK = 8
LATENT_SIDE = 8  # 64 px: 128 samples in one batch, on one CPU
COUNTS = "1,2,4,8,16,32,64,128"
FILES = 8  # different ones; more adapters are the same files under other names
TRAINED = 4


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Adapters per sample, true SD1.5 UNet.")
    parser.add_argument("--unet", choices=["sd15", "small"], default="sd15")
    parser.add_argument("--counts", default=COUNTS, help=f"adapters in a batch (default {COUNTS})")
    parser.add_argument("--pairs", type=int, default=5, help="neighbouring pairs per ratio")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--way", choices=["segments", "padded"], help="default: the device's own")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.way:
        batch.PADDED_ON = ("cpu",) if options.way == "padded" else ()
    print(
        f"{options.unet} UNet, random weights, fp32, rank {RANK} on attention; "
        f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}, "
        f"{date.today()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        unet = true_unet() if options.unet == "sd15" else small_unet().eval()
        paths = []
        for number in range(FILES):
            paths.append(Path(folder, f"a{number}.safetensors"))
            save_adapter(random_adapter(unet, number), paths[-1], dtype="fp16")
        counts = [int(count) for count in options.counts.split(",")]
        time_batches(unet, paths, counts, options.pairs)
        time_switches(unet, paths)
    del unet
    compare_training(options.pairs)


def pages_for(unet: Any, paths: list[Path], count: int, device_bytes: int) -> AdapterPages:
    """`count` adapters called 0, 1, … of which nothing is read yet."""
    pages = AdapterPages({UNET: unet}, device_bytes=device_bytes, ram_bytes=1 << 32)
    for number in range(count):
        pages.add(str(number), paths[number % len(paths)])
    return pages


def mix_of(number: int) -> Mix:
    """The one adapter of a sample."""
    return [(str(number), Weights(0.8))]


def time_batches(unet: Any, paths: list[Path], counts: list[int], pairs: int) -> None:
    """Batches of so many samples with an adapter each."""
    pages = pages_for(unet, paths, max(counts), 1 << 33)
    per_sample = PerSample({UNET: unet}, pages)
    print(f"\n{'samples':>7}  one batch / base       one by one / base  samples/CPU s  adapters")
    for count in counts:
        mixes = [mix_of(number) for number in range(count)]
        base = forward_of(unet, count)
        one = forward_of(unet, 1)

        def together(mixes: list[Mix] = mixes, base: Callable[[], object] = base) -> None:
            with per_sample.drawing(mixes):
                base()

        def one_by_one(mixes: list[Mix] = mixes, one: Callable[[], object] = one) -> None:
            for mix in mixes:
                with per_sample.drawing([mix]):
                    one()

        print(
            f"{count:>7}  {compared(together, base, pairs)}  {compared(one_by_one, base, pairs)}  "
            f"{count / cpu_seconds(together):>13.2f}  {pages.device_bytes / 1e6:>5.0f} MB"
        )


def time_switches(unet: Any, paths: list[Path]) -> None:
    """From one adapter to another, until the UNet would draw with it."""
    parts = {UNET: unet}

    def switching(pages: AdapterPages, rounds: int) -> float:
        per_sample = PerSample(parts, pages)
        times = []
        for number in range(rounds):
            context = per_sample.drawing([mix_of(number % 2)])
            times.append(seconds(context.__enter__))
            context.__exit__(None, None, None)
        return statistics.median(times[2:])

    pages = pages_for(unet, paths, 2, 1 << 33)
    print()
    tell("switching between adapters on the device", switching(pages, 23), pages)
    room = pages.device_bytes // 2
    pages = pages_for(unet, paths, 2, room)
    tell("from RAM, the device being full", switching(pages, 9), pages)
    pages = AdapterPages(parts, device_bytes=room, ram_bytes=0)
    for number in range(2):
        pages.add(str(number), paths[number])
    tell("from disk, hashed and checked", switching(pages, 9), pages)


def tell(what: str, took: float, pages: AdapterPages) -> None:
    moves = pages.moves
    print(f"{what}: {1e3 * took:.1f} ms; in all {moves.reads} reads, {moves.copies} copies")


def compare_training(pairs: int) -> None:
    """A step of each of four adapters: one forward pass of all their batches, or by turns."""
    unet = small_unet()
    handles = [
        inject({UNET: unet}, AdapterConfig(rank=RANK, seed=number), f"a{number}")
        for number in range(TRAINED)
    ]
    layers = {key: layer for handle in handles for key, layer in handle.layers.items()}
    batches = [batch_for(1) for _ in handles]

    def loss(latents: Tensor, timesteps: Tensor, context: Tensor, target: Tensor) -> Tensor:
        predicted = unet(latents, timesteps, encoder_hidden_states=context).sample
        return (predicted - target).square().mean(dim=(1, 2, 3)).sum()

    def by_turns() -> Tensor:
        for handle, own in zip(handles, batches, strict=True):
            for other in handles:
                other.enabled = other is handle
            loss(*own).backward()
        return torch.zeros(())

    def in_one_pass() -> Tensor:
        for handle in handles:
            handle.enabled = False
        hooks = []
        for key, layer in layers.items():
            uses = [(n, h.layers[key].adapter(h.name), 1.0) for n, h in enumerate(handles)]
            updates = batch.products_on(layer.own_weight)(uses, TRAINED)
            hook = batch.hook_of(updates, layer.own_weight, TRAINED)
            hooks.append(layer.base.register_forward_hook(hook))
        loss(*(torch.cat(column) for column in zip(*batches, strict=True))).backward()
        for hook in hooks:
            hook.remove()
        return torch.zeros(())

    ratio = compared(in_one_pass, by_turns, pairs)
    turn = saved_bytes(by_turns, unet) / TRAINED  # all turns are alike, each frees what it saved
    print(
        f"\ntraining {TRAINED} adapters, UNet of 35 M parameters, batch 1 each: one pass takes "
        f"{ratio} of the time by turns, and saves {saved_bytes(in_one_pass, unet) / turn:.2f} "
        "times as many bytes for the backward pass at once"
    )


def forward_of(unet: Any, samples: int) -> Callable[[], object]:
    """One denoising step of `samples` pictures under guidance."""
    latents = torch.randn(2 * samples, 4, LATENT_SIDE, LATENT_SIDE)
    context = torch.randn(2 * samples, 77, unet.config.cross_attention_dim)
    timesteps = torch.full((2 * samples,), 500)

    @torch.no_grad()
    def run() -> object:
        return unet(latents, timesteps, encoder_hidden_states=context).sample

    return run


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU time of one call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def compared(one: Callable[[], object], other: Callable[[], object], pairs: int) -> str:
    """The ratio of their CPU times: median and quartiles."""
    ratios = paired(one, other, pairs, cpu_seconds)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
