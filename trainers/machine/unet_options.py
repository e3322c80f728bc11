"""How the UNet computes: its attention, 8-bit storage, recomputation, compilation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lora_diffusion.errors import InputError
from trainers.machine.devices import Placement
from trainers.spec import ModelSpec

_FP8 = torch.float8_e4m3fn
_KEPT_WIDE = ("conv_in", "conv_out", "time_embedding", "add_embedding")


def configure(unet: nn.Module, spec: ModelSpec, placement: Placement) -> None:
    """Set attention and storage of a freshly loaded UNet, before adapters are put on it.

    Raises:
        InputError: what is wanted is not installed, or this device can't do it.
    """
    if spec.attention == "xformers":
        use_xformers(unet, placement.device)
    elif spec.attention == "sliced":
        use_sliced_attention(unet)
    if spec.fp8_base:
        hold_in_fp8(unet, placement)


def check_xformers(device: torch.device) -> None:
    """Raise `InputError` where xformers has no kernels for the device."""
    if device.type != "cuda":
        raise InputError("model.attention = xformers needs an NVIDIA GPU. Use sdpa.")


def use_xformers(unet: Any, device: torch.device) -> None:
    """Switch the UNet's attention to xformers.

    Raises:
        InputError: not installed, or no kernel for this device.
    """
    check_xformers(device)
    try:
        unet.enable_xformers_memory_efficient_attention()
    except (ImportError, ValueError, NotImplementedError, RuntimeError, OSError) as error:
        raise InputError(
            f"model.attention = xformers can't be used ({_first_line(error)}). Install it with "
            "pip install 'lora-diffusion[xformers]', or use sdpa."
        ) from None


def use_sliced_attention(unet: Any) -> None:
    """Compute attention a head at a time: the least memory, slower."""
    unet.set_attention_slice("max")


class _Widened(nn.Module):
    """A weight that is stored as float8 (e4m3) with a scale for each output channel.

    Source: Micikevicius et al., "FP8 Formats for Deep Learning" (arXiv:2209.05433).
    """

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight `[out, in, *kernel]` -> stored, of that shape, and scale `[out, 1, …]`."""
        largest = weight.float().abs().flatten(1).amax(1)
        scale = largest.clamp_min(torch.finfo(_FP8).tiny) / torch.finfo(_FP8).max
        scale = scale.view(-1, *(1 for _ in weight.shape[1:]))
        return (weight.float() / scale).to(_FP8), scale.to(weight.dtype)

    def forward(self, stored: Tensor, scale: Tensor) -> Tensor:
        return stored.to(scale.device, scale.dtype) * scale


class _Fetched(nn.Module):
    """A weight that waits in main memory and is on `device` while its layer computes."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.cpu()

    def forward(self, stored: Tensor) -> Tensor:
        return stored.to(self.device, non_blocking=True)


def hold_in_fp8(unet: nn.Module, placement: Placement) -> None:
    """Keep the frozen weights as float8 (e4m3) and widen each layer's while it computes.

    The first and last convolution and the embeddings of time stay as they are. Widened weights
    live until their layer's backward pass, so memory falls with gradient checkpointing only.

    Raises:
        InputError: fp32 is computed in, or the device has no float8.
    """
    if placement.precision == "fp32":
        raise InputError(
            "model.fp8_base needs 16-bit arithmetic: set model.precision to bf16, or to fp16 on a "
            "GPU that lacks it."
        )
    try:
        torch.ones(1, device=placement.device).to(_FP8).to(placement.dtype)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InputError(
            f"model.fp8_base can't be used on {placement.device.type} ({_first_line(error)}). "
            "Leave it out."
        ) from None
    for layer in _large_layers(unet):
        parametrize.register_parametrization(layer, "weight", _Widened(), unsafe=True)


def keep_in_main_memory(unet: nn.Module, device: torch.device) -> None:
    """Keep the frozen weights in main memory and bring each layer's to `device` while it computes.

    As with `hold_in_fp8`, a few stay where they are, and memory falls with gradient checkpointing
    only.
    """
    for layer in _large_layers(unet):
        if not parametrize.is_parametrized(layer, "weight"):
            parametrize.register_parametrization(layer, "weight", _Fetched(device), unsafe=True)
            continue
        held: Any = layer.get_submodule("parametrizations.weight")
        if isinstance(held[0], _Widened):
            held.original0.data = held.original0.data.cpu()  # its scale stays on the device


def _large_layers(unet: nn.Module) -> list[nn.Module]:
    """The layers that hold most of the weights: all but the first, the last and the embeddings."""
    return [
        layer
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and not name.startswith(_KEPT_WIDE)
    ]


def recompute_activations(parts: Iterable[nn.Module]) -> None:
    """Gradient checkpointing (Chen et al., arXiv:1604.06174) of a base's models."""
    for part in parts:
        model: Any = part
        if hasattr(model, "enable_gradient_checkpointing"):  # diffusers
            model.enable_gradient_checkpointing()
        else:  # transformers
            model.activation_checkpointing_enable()


def compile_unet(unet: nn.Module, device: torch.device, backend: str = "inductor") -> None:
    """Compile the UNet with its adapters in place, once it is seen that compiling works here.

    Raises:
        InputError: there is no compiler.
    """
    try:
        torch.compile(_probe, backend=backend)(torch.ones(2, device=device))
    except Exception as error:  # whatever a compiler, its driver or its cache may raise
        raise InputError(
            f"model.compile can't be used here ({_first_line(error)}). It needs a C++ compiler, "
            "and on a GPU triton. Leave it out."
        ) from None
    unet.compile(backend=backend)


def _probe(x: torch.Tensor) -> torch.Tensor:
    return (x * 2 + 1).relu()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
