"""Two steps of a run at its largest bucket: `python -m trainers.planner.trial`.

It reads a `JobSpec` as JSON from standard input and writes JSON objects, one a line, to standard
output: `{"progress": text}` while it works, then `{"measured": …}`, fields of `probe.Probe`, or
`{"error": text}`. Nothing is written to disk.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_diffusion.errors import InputError
from lora_diffusion.families.base import DiffusionBase, PictureSize
from lora_diffusion.randomness import normal
from trainers import setup
from trainers.batch import Batch
from trainers.data import buckets, prepare, scan
from trainers.data.bucket_settings import bucket_rules
from trainers.data.buckets import Size
from trainers.data.decode import read_size
from trainers.loop import Trainer
from trainers.machine import devices
from trainers.machine.memory import MEMORY_ERRORS, is_out_of_memory
from trainers.optim import make_optimizer
from trainers.planner.measured import peak_bytes
from trainers.planner.savings import with_settings
from trainers.spec import JobSpec

_STEPS = 2


def main() -> int:
    """Answer on standard output; whatever libraries print goes to standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def reply(body: dict[str, Any]) -> None:
        replies.write(json.dumps(body) + "\n")
        replies.flush()

    answer(sys.stdin.read(), reply)
    return 0


def answer(settings: str, reply: Callable[[dict[str, Any]], None]) -> None:
    """Measure a `JobSpec` in JSON, and reply as the module says."""
    try:
        spec = JobSpec.model_validate_json(settings)
        reply({"measured": measure(spec, lambda text: reply({"progress": text}))})
    except InputError as error:
        reply({"error": str(error)})
    except MEMORY_ERRORS as error:
        if not is_out_of_memory(error):
            raise
        told = "Memory does not suffice for a step of this run. --plan says what would lower it."
        reply({"error": told})


def measure(spec: JobSpec, tell: Callable[[str], None]) -> dict[str, Any]:
    """The fields of `probe.Probe` but the estimate.

    Raises:
        InputError: the run could not be started.
        MemoryError, RuntimeError: memory ran out.
    """
    if spec.data.cache == "disk":  # held in memory here: what it keeps is not part of a step
        spec = with_settings(spec, {"data.cache": "memory"})
    if spec.model.threads:
        torch.set_num_threads(spec.model.threads)
    placement = devices.choose(spec.model)
    base = setup.open_base(spec, placement, lambda _name, text: tell(text))
    size_px, caption = _largest(spec, base)
    if spec.data.cache != "off":
        base.free_vae_encoder()
    setup.place_unet(base, placement)
    handle = setup.put_adapter(base, spec)
    optimizer = make_optimizer(spec.optim, handle)
    prompts = None
    if not spec.trains_text:
        prompts = prepare.keep_prompts(base, spec, [caption], lambda _done, _total: None)
        if prompts is not None:
            base.free_text_encoders()
    trainer = Trainer(
        spec,
        _STEPS,
        base,
        handle,
        _Repeated(_batch(spec, base, size_px, caption, prompts is None)),
        devices.make_accelerator(placement),
        optimizer,
        prompts,
    )
    trainer.set_training()
    tell(f"a step at {size_px[1]} x {size_px[0]} px")
    activations = peak_bytes(lambda: trainer.step(0), base.device)
    tell("a second step")
    seconds = trainer.step(1).seconds
    trained = [p.data for p in handle.parameters()]
    state = [v for kept in optimizer.state.values() for v in kept.values() if torch.is_tensor(v)]
    adapter = _bytes([*trained, *trainer.shown.average.values(), *state])
    models = [*base.parts.values(), base.vae]
    everything = _bytes(t for m in models for t in (*m.parameters(), *m.buffers()))
    return {
        "device": base.device.type,
        "batch_size": spec.schedule.batch_size,
        "height_px": size_px[0],
        "width_px": size_px[1],
        "weights": everything - _bytes(trained),
        "adapter": adapter,
        "activations": activations,
        "step_seconds": seconds,
    }


@dataclass(frozen=True, eq=False)
class _Repeated:
    """The same batch at each step."""

    batch: Batch

    def own(self, micro: int) -> Batch:
        return self.batch

    def names(self, micro: int) -> list[str]:
        return []


def _largest(spec: JobSpec, base: DiffusionBase) -> tuple[Size, str]:
    """The largest size (height, width in px) that pictures are trained at, and a caption there.

    Raises:
        InputError: there are no pictures, or none is large enough.
    """
    rules = bucket_rules(spec.data, base.native_size_px, base.size_step_px)
    found: list[tuple[Size, str]] = []
    for picture in scan.find(spec.data):
        size_px = picture.size_px or read_size(picture.path, spec.data.max_megapixels)
        fit = buckets.fit(size_px, rules)
        if fit is not None:
            found.append((fit.target_px, picture.caption))
    if not found:
        raise InputError(f"{spec.data.folder}: has no picture that is large enough to train on.")
    return max(found, key=lambda each: (each[0][0] * each[0][1], len(each[1])))


def _batch(
    spec: JobSpec, base: DiffusionBase, size_px: Size, caption: str, pads_captions: bool
) -> Batch:
    """A full batch of noise at that size."""
    rows, device = spec.schedule.batch_size, base.device
    sides = tuple(side // base.latent_factor for side in size_px)
    latents = normal((rows, base.latent_channels, *sides), "latent").to(device)
    noise = normal(tuple(latents.shape), "noise").to(device)
    return Batch(
        latents=latents,
        noise=noise,
        input_noise=noise,
        timesteps=torch.full((rows,), 500, device=device),
        captions=[caption] * rows,
        sizes=[PictureSize.whole(*size_px)] * rows,
        is_class=torch.zeros(rows, dtype=torch.bool, device=device),
        weight=torch.ones(rows, device=device),
        mask=None,
        places=tuple(range(rows)),
        chunks=base.prompt_chunks(caption) if pads_captions else None,
        share=1.0,
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of the memory behind `tensors`, each counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


if __name__ == "__main__":
    sys.exit(main())
