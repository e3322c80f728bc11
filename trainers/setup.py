"""The parts of a run, made from its settings, before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lora_diffusion import bundled
from lora_diffusion.dropout import Dropout
from lora_diffusion.families import Conditioning, DiffusionBase, load_base
from lora_diffusion.inject import AdapterConfig, AdapterHandle, inject
from lora_diffusion.keys import UNET
from lora_diffusion.targets import NONE
from trainers import devices
from trainers.data.dataset import Dataset
from trainers.data.order import Order
from trainers.data.scan import Picture, scan
from trainers.jobs import RunDir
from trainers.preview import Previewer
from trainers.prior import class_pictures
from trainers.progress import silence_libraries
from trainers.spec import DataSpec, JobSpec
from trainers.teller import Teller


def find_instances(data: DataSpec) -> list[Picture]:
    """The instance pictures and their captions."""
    caption = data.instance_prompt
    if "{trigger}" in caption:
        caption = caption.replace("{trigger}", data.trigger) if data.trigger else ""
    folder = bundled.resolve(data.folder)
    return scan(folder, default_caption=caption or None, trigger=data.trigger)


def open_base(spec: JobSpec, placement: devices.Placement, teller: Teller) -> DiffusionBase:
    """The base model where and how the settings want it."""
    model = spec.model
    silence_libraries()
    teller.phase("load", f"loading {model.base}")
    base = load_base(
        model.base,
        device=placement.device,
        dtype=placement.dtype,
        tokenizer=model.tokenizer,
        prediction=model.prediction,
        clip_skip=model.clip_skip,
        on_progress=lambda text: teller.phase("load", text),
    )
    if model.attention == "xformers":
        devices.use_xformers(base.unet, placement.device)
    return base


def find_classes(
    base: DiffusionBase, spec: JobSpec, side_px: int, run_dir: RunDir, teller: Teller
) -> list[Picture]:
    """The class pictures, drawn by the base where missing; none where none are wanted."""
    data = spec.data
    if not data.class_pictures:
        return []
    folder = Path(data.class_folder) if data.class_folder else run_dir.class_pictures
    return class_pictures(
        base, spec, folder, side_px, teller.counter("class", "drawing class pictures")
    )


def put_adapter(base: DiffusionBase, spec: JobSpec) -> AdapterHandle:
    """Inject the adapter; parts whose learning rate is 0 get none."""
    adapter = spec.adapter
    handle = inject(
        base.parts,
        AdapterConfig(
            targets=adapter.targets if spec.optim.lr_unet > 0 else NONE,
            text_targets=adapter.text_targets if spec.optim.lr_text > 0 else NONE,
            rank=adapter.rank,
            alpha=adapter.alpha,
            ranks=adapter.ranks,
            alphas=adapter.alphas,
            init=adapter.init,
            dropout=Dropout(adapter.rank_dropout, adapter.module_dropout, adapter.neuron_dropout),
            seed=spec.schedule.seed,
        ),
    )
    if spec.model.gradient_checkpointing:
        _recompute_activations(base)
    return handle


def cache_prompts(
    base: DiffusionBase, handle: AdapterHandle, dataset: Dataset, previewer: Previewer | None
) -> dict[str, Conditioning] | None:
    """Every caption encoded once and the text encoder freed; None where it is being trained."""
    if any(key.part != UNET for key in handle.layers):
        return None
    captions = [*dataset.captions, ""]
    chunks = max(base.prompt_chunks(caption) for caption in captions)
    with torch.no_grad():
        cached = {c: base.encode_prompts([c], chunks=chunks) for c in captions}
    if previewer:
        previewer.keep_prompts()
    base.free_text_encoders()
    return cached


def total_steps(spec: JobSpec, order: Order) -> int:
    """`schedule.steps`, or as many as `schedule.epochs` takes."""
    if spec.schedule.steps:
        return spec.schedule.steps
    per_step = spec.schedule.batch_size * spec.schedule.accumulate
    return order.steps_in_epochs(spec.schedule.epochs or 1, per_step)


def _recompute_activations(base: DiffusionBase) -> None:
    for part in base.parts.values():
        model: Any = part
        if hasattr(model, "enable_gradient_checkpointing"):  # diffusers
            model.enable_gradient_checkpointing()
        else:  # transformers
            model.activation_checkpointing_enable()
