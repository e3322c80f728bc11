"""Adapters of every kind for the tiny models."""

from __future__ import annotations

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.algebra import wide
from lora_diffusion.factors import FullFactors
from lora_diffusion.injection import AdapterConfig, inject
from lora_diffusion.keys import UNET
from tests.conftest import fill, make_parts

# name -> what it is; ranks differ, some are on convolutions, some on text encoders
KINDS = {
    "lora": AdapterConfig(rank=4, alpha=2.0),
    "locon": AdapterConfig(rank=3, conv_rank=6, targets="all", text_targets="none"),
    "rslora": AdapterConfig(kind="rslora", rank=9, text_targets="attn+ff"),
    "dora": AdapterConfig(kind="dora", rank=2, targets="all"),
    "dora_out": AdapterConfig(kind="dora", dora_axis="out", rank=2, text_targets="none"),
    "loha": AdapterConfig(kind="loha", rank=2, targets="all"),
    "lokr": AdapterConfig(kind="lokr", rank=2, targets="all"),
    "middle": AdapterConfig(rank=5, targets="mid", text_targets="none"),
}


def make_file(config: AdapterConfig, seed: int) -> AdapterFile:
    parts = make_parts()
    used = parts if config.text_targets != "none" else {UNET: parts[UNET]}
    handle = inject(used, config)
    fill(handle, seed)
    return handle.to_file("sd15")


def make_full(seed: int) -> AdapterFile:
    """Whole differences, as LyCORIS' `full` has them."""
    low_rank = make_file(AdapterConfig(rank=2, targets="attn+ff"), seed)
    layers = {key: FullFactors(wide(f.delta())) for key, f in low_rank.layers.items()}
    return AdapterFile("sd15", layers)
