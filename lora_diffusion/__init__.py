"""LoRA adapters for Stable Diffusion: inject, train, weigh, merge, save, load.

The few public names; each is imported on first use (PEP 562), so that torch-free modules of
this package (`formats.header`, `formats.metadata`, …) can be used without torch.

The files here are one adapter on one model: `keys` and `targets` (which layers), `factors`,
`algebra` and `shapes` (the numbers), `layers`, `injection`, `dropout` and `merge` (the model),
`adapter` (what a file means), `generate` (pictures).

| folder | holds |
| --- | --- |
| `variants` | kinds of adapter, as modules |
| `formats` | adapter files in every dialect |
| `consumers` | which programs read a file, and how |
| `composition`, `multi` | several adapters: in one picture, in one batch |
| `analyse` | what is in adapters, and what they do to each other |
| `families` | base models |
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> where it lives
_HOMES = {
    "AdapterConfig": "lora_diffusion.injection",
    "AdapterFile": "lora_diffusion.adapter",
    "AdapterHandle": "lora_diffusion.injection",
    "Factors": "lora_diffusion.factors",
    "InputError": "lora_diffusion.errors",
    "LayerKey": "lora_diffusion.keys",
    "Weights": "lora_diffusion.composition.weights",
    "attach": "lora_diffusion.injection",
    "compose": "lora_diffusion.composition.live",
    "inject": "lora_diffusion.injection",
    "load": "lora_diffusion.formats",
    "load_base": "lora_diffusion.families",
}
# … and what it is called there, if otherwise
_NAMED_THERE = {"load": "load_adapter"}
__all__ = [
    "AdapterConfig",
    "AdapterFile",
    "AdapterHandle",
    "Factors",
    "InputError",
    "LayerKey",
    "Weights",
    "attach",
    "compose",
    "inject",
    "load",
    "load_base",
]

if TYPE_CHECKING:
    from lora_diffusion.adapter import AdapterFile
    from lora_diffusion.composition.live import compose
    from lora_diffusion.composition.weights import Weights
    from lora_diffusion.errors import InputError
    from lora_diffusion.factors import Factors
    from lora_diffusion.families import load_base
    from lora_diffusion.formats import load_adapter as load
    from lora_diffusion.injection import AdapterConfig, AdapterHandle, attach, inject
    from lora_diffusion.keys import LayerKey


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lora_diffusion' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), _NAMED_THERE.get(name, name))


def __dir__() -> list[str]:
    return __all__
