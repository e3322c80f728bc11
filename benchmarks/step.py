"""What a training step costs over the frozen UNet alone, ours and a bare PEFT loop.

    python -m benchmarks.step [--pairs N] [--batch B] [--threads N]

The floor is the frozen UNet's forward pass, the squared error, and the backward pass from the
first attention block on; no adapter, no optimizer. Each variant adds rank 8 on the 128 attention
projections, clipping and AdamW, and is timed next to a floor step: the median of the ratios of
neighbours is printed with its quartiles. The bytes saved for the backward pass are exact.
Latents and prompts are ready-made: loading them is not in it.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from torch import Tensor

from benchmarks.inference import paired
from lora_diffusion.injection import AdapterConfig, inject
from lora_diffusion.keys import UNET
from trainers.objective import batch_loss, errors, picture_losses
from trainers.optim import make_optimizer
from trainers.spec import ObjectiveSpec, OptimSpec

RANK = 8
LR = 1e-4
Step = Callable[[], Tensor]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="A training step over the frozen UNet's.")
    parser.add_argument("--pairs", type=int, default=12, help="neighbouring pairs per ratio")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    frozen = small_unet()
    floor = floor_step(frozen, options.batch)
    print(
        f"UNet of 35 M parameters, random fp32 weights, batch {options.batch}; "
        f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}, "
        f"{date.today()}"
    )
    below = saved_bytes(floor, frozen)
    for name, make in {"lora-diffusion": our_step, "bare PEFT": peft_step}.items():
        unet = small_unet()
        step = make(unet, options.batch)
        first = float(step())
        low, middle, high = statistics.quantiles(paired(step, floor, options.pairs), n=4)
        print(
            f"{name:<16} {middle:.3f} of the floor's time  [{low:.3f}, {high:.3f}]; "
            f"{saved_bytes(step, unet) / below:.3f} of its saved bytes; first loss {first:.6f}"
        )


def small_unet() -> Any:
    """SD1.x's blocks at a fifth of the width, always the same weights."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32, block_out_channels=(64, 128, 256, 256), cross_attention_dim=256
    )
    return unet.train().requires_grad_(False)


def batch_for(size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, timesteps, context, target."""
    source = torch.Generator().manual_seed(1)
    latents, target = (torch.randn(size, 4, 32, 32, generator=source) for _ in range(2))
    return latents, torch.full((size,), 500), torch.randn(size, 77, 256, generator=source), target


def loss_of(unet: Any, size: int) -> Step:
    """Forward pass and squared error on the fixed batch."""
    latents, timesteps, context, target = batch_for(size)
    spec, ones = ObjectiveSpec(), torch.ones(size)

    def loss() -> Tensor:
        predicted = unet(latents, timesteps, encoder_hidden_states=context).sample
        return batch_loss(picture_losses(errors(spec, predicted, target, ones, ones)), ones)

    return loss


def floor_step(unet: Any, size: int) -> Step:
    """Gradients flow from the first attention block on, and nothing is kept of them."""
    first = next(m for n, m in unet.named_modules() if n.endswith("transformer_blocks.0"))
    first.register_forward_pre_hook(lambda _, args: (args[0].detach().requires_grad_(), *args[1:]))
    loss_now = loss_of(unet, size)

    def step() -> Tensor:
        loss = loss_now()
        loss.backward()
        return loss.detach()

    return step


def our_step(unet: Any, size: int) -> Step:
    """Adapter, loss and optimizer of this project."""
    handle = inject({UNET: unet}, AdapterConfig(rank=RANK))
    optimizer = make_optimizer(OptimSpec(lr_unet=LR), handle)
    return _updating(loss_of(unet, size), optimizer, handle.parameters())


def peft_step(unet: Any, size: int) -> Step:
    """The loop of PEFT's and diffusers' documentation."""
    from peft import LoraConfig

    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
    parameters = [p for p in unet.parameters() if p.requires_grad]
    return _updating(loss_of(unet, size), torch.optim.AdamW(parameters, lr=LR), parameters)


def _updating(loss_now: Step, optimizer: torch.optim.Optimizer, parameters: list[Any]) -> Step:
    def step() -> Tensor:
        loss = loss_now()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def saved_bytes(step: Step, unet: Any) -> int:
    """Bytes of distinct storages, weights apart, that one step saves for its backward pass."""
    weights = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    kept: dict[int, tuple[Tensor, int]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(size for _, size in kept.values())


if __name__ == "__main__":
    main()
