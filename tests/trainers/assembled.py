"""A trainer put together as a run does it, without the run."""

from __future__ import annotations

from lora_diffusion.families import DiffusionBase
from trainers import setup
from trainers.batch import Batches
from trainers.data import prepare, scan
from trainers.loop import Trainer
from trainers.machine import devices
from trainers.optim import make_optimizer
from trainers.preview import Previewer
from trainers.spec import JobSpec


def assemble(
    spec: JobSpec, steps: int, base: DiffusionBase, previewer: Previewer | None = None
) -> Trainer:
    """Everything encoded and cached; the models are not yet in training mode."""
    dataset = prepare.make_dataset(base, spec, scan.find(spec.data), [])
    dataset.fill(lambda *_: None)
    handle = setup.put_adapter(base, spec)
    prompts = setup.cache_prompts(base, spec, dataset, previewer, lambda *_: None)
    if prompts is not None:
        base.free_text_encoders()
    order = prepare.make_run_order(spec, dataset)
    return Trainer(
        spec,
        steps,
        base,
        handle,
        Batches(spec, base, dataset, order, pads_captions=prompts is None),
        devices.make_accelerator(devices.choose(spec.model)),
        make_optimizer(spec.optim, handle),
        prompts,
    )
