"""What a run would do, from its settings and the pictures' names alone: no torch, no decoding."""

from __future__ import annotations

from lora_diffusion import bundled
from trainers.data.scan import find_pictures
from trainers.spec import JobSpec


def plan(spec: JobSpec) -> str:
    """A few lines: pictures, steps, epochs, batch.

    Raises:
        InputError: the folder of pictures is missing.
    """
    pictures = len(find_pictures(bundled.resolve(spec.data.folder)))
    classes = spec.data.class_pictures
    schedule = spec.schedule
    per_step = schedule.batch_size * schedule.accumulate
    share = 1 - (spec.data.class_fraction if classes else 0)
    instances_per_step = per_step * share
    if schedule.steps:
        steps = schedule.steps
        epochs = steps * instances_per_step / max(1, pictures)
    else:
        epochs = float(schedule.epochs or 1)
        steps = -(-round(epochs * pictures) // max(1, round(instances_per_step)))
    side = spec.data.resolution_px
    size = f"{side} x {side} px" if side else "squares of the base's own size"
    lines = [
        f"base          {spec.model.base}",
        f"pictures      {pictures} in {spec.data.folder}, cropped to {size}",
        f"class         {classes} pictures" if classes else "class         none",
        f"length        {steps:,} steps, {epochs:.1f} passes over the pictures",
        f"batch         {schedule.batch_size} x {schedule.accumulate} accumulated",
        f"adapter       {spec.adapter.kind}, rank {spec.adapter.rank}, {spec.adapter.targets}; "
        f"text encoder {spec.adapter.text_targets if spec.optim.lr_text else 'none'}",
    ]
    return "\n".join(lines)
