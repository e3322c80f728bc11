"""What a run would do, from its settings and the pictures' names alone: no torch, no decoding."""

from __future__ import annotations

from lora_diffusion.errors import printable
from trainers.data.scan import outline
from trainers.data.subsets import Subset
from trainers.spec import DataSpec, JobSpec


def plan(spec: JobSpec) -> str:
    """A few lines: pictures, steps, epochs, batch.

    Raises:
        InputError: the folder of pictures is missing.
    """
    parts = outline(spec.data)
    found = sum(number for part, number in parts if not part.is_class)
    pictures = sum(part.repeats * number for part, number in parts if not part.is_class)
    classes = spec.data.class_pictures + sum(number for part, number in parts if part.is_class)
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
        f"pictures      {found} in {_place(spec.data)}, cropped to {size}",
        *(_part_line(part, number) for part, number in parts if part.name),
        f"class         {classes} pictures" if classes else "class         none",
        f"length        {steps:,} steps, {epochs:.1f} passes over the pictures",
        f"batch         {schedule.batch_size} x {schedule.accumulate} accumulated",
        f"adapter       {spec.adapter.kind}, rank {spec.adapter.rank}, {spec.adapter.targets}; "
        f"text encoder {spec.adapter.text_targets if spec.optim.lr_text else 'none'}",
    ]
    return "\n".join(lines)


def _place(data: DataSpec) -> str:
    return f"{len(data.subsets)} subsets" if data.subsets else data.folder


def _part_line(part: Subset, number: int) -> str:
    """One subset or kohya folder: how its pictures are shown, and what those without words get."""
    words = [f"{number} pictures"]
    words.append("for regularisation" if part.is_class else f"shown {part.repeats}x an epoch")
    if part.weight != 1:
        words.append(f"loss x {part.weight:g}")
    if part.default_caption:
        words.append(f"'{printable(part.default_caption, 60)}' where there is no caption")
    return f"  {printable(part.name, 60)}: " + ", ".join(words)
