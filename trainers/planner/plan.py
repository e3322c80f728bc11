"""What a run would do, from its settings and the pictures' headers alone: no torch, no decoding."""

from __future__ import annotations

import math

from lora_diffusion.errors import InputError, printable
from lora_diffusion.families.outline import outline as look_into
from trainers.data.bucket_settings import rules_by_outline
from trainers.data.buckets import BucketCount, count, fit, split_evenly
from trainers.data.decode import read_size
from trainers.data.scan import find, outline
from trainers.data.subsets import Subset
from trainers.planner.estimate import estimate, has_gpu, size
from trainers.planner.savings import savings
from trainers.spec import DataSpec, JobSpec


def plan(spec: JobSpec) -> str:
    """A few lines: pictures, steps, epochs, batch.

    Raises:
        InputError: the folder of pictures is missing.
    """
    parts = outline(spec.data)
    found = sum(number for part, number in parts if not part.is_class)
    pictures = sum(part.repeats * number for part, number in parts if not part.is_class)
    held_out = spec.validation.count_held_out(found)
    pictures = round(pictures * (1 - min(1, held_out / max(1, found))))
    classes = spec.data.class_pictures + sum(number for part, number in parts if part.is_class)
    used, bucket_lines = _buckets(spec)
    schedule = spec.schedule
    per_step = schedule.batch_size * schedule.accumulate
    share = 1 - (spec.data.class_fraction if classes else 0)
    instances_per_step = per_step * share
    if used and not classes:  # what is left of a bucket is a smaller batch
        batches = sum(len(split_evenly(each.visits, schedule.batch_size)) for each in used)
        instances_per_step = pictures * schedule.accumulate / batches
    if schedule.steps:
        steps = schedule.steps
        epochs = steps * instances_per_step / max(1, pictures)
    else:
        epochs = float(schedule.epochs or 1)
        steps = math.ceil(epochs * pictures / instances_per_step)
    side = spec.data.resolution_px
    size = f"{side} x {side} px" if side else "the base's own size"
    shape = f"{'in buckets around' if spec.data.buckets else 'cropped to squares of'} {size}"
    lines = [
        f"base          {spec.model.base}",
        f"pictures      {found} in {_place(spec.data)}, {shape}",
        *(_part_line(part, number) for part, number in parts if part.name),
        *bucket_lines,
        *([f"held out      {held_out} pictures, to be measured"] if held_out else []),
        f"class         {classes} pictures" if classes else "class         none",
        f"length        {steps:,} steps, {epochs:.1f} passes over the pictures",
        f"batch         {schedule.batch_size} x {schedule.accumulate} accumulated",
        f"adapter       {spec.adapter.kind}, rank {spec.adapter.rank}, {spec.adapter.targets}; "
        f"text encoder {spec.adapter.text_targets if spec.optim.lr_text else 'none'}",
    ]
    return "\n".join([*lines, *_memory(spec)])


def _memory(spec: JobSpec) -> list[str]:
    """What the run takes at its peak, and what would lower it."""
    gpu = has_gpu(spec.model.device)
    try:
        base = look_into(spec.model.base, spec.model.arch)
        told = estimate(spec, gpu=gpu, outline=base)
        cheaper = savings(spec, gpu=gpu, outline=base) if gpu else []  # main memory is rarely short
    except InputError as error:
        return [f"memory        not known: {error}"]
    where = "of GPU memory" if gpu else "besides the program itself"
    parts = (
        f"weights {size(told.weights)}, adapter {size(told.adapter)}, "
        f"a step's activations {size(told.activations)}"
    )
    return [
        f"memory        about {size(told.peak)} {where}, most while it has to {told.worst}",
        f"  training: {parts}",
        *(f"  less with {saving.line()}" for saving in cheaper),
    ]


def _buckets(spec: JobSpec) -> tuple[list[BucketCount], list[str]]:
    """The buckets that the instance pictures fall into, and a line for each."""
    if not spec.data.buckets:
        return [], []
    rules = rules_by_outline(spec)
    if rules is None:
        return [], ["buckets       known once the base was opened"]
    try:
        pictures = [p for p in find(spec.data) if not p.is_class]
        sizes = [p.size_px or read_size(p.path, spec.data.max_megapixels) for p in pictures]
    except InputError as error:
        return [], [f"buckets       not known: {error}"]
    fits = [fit(size, rules) for size in sizes]
    placed = [(found, p.repeats) for found, p in zip(fits, pictures, strict=True) if found]
    used = count([found for found, _ in placed], [repeats for _, repeats in placed])
    lines = [
        f"  {each.size_px[1]} x {each.size_px[0]} px: {each.pictures} pictures, shown "
        f"{each.visits}x an epoch, {each.crop_loss:.0%} cropped"
        for each in used
    ]
    if len(placed) < len(fits):
        lines.append(f"  {len(fits) - len(placed)} are too small: set data.upscale to enlarge them")
    return used, [f"buckets       {len(used)}", *lines]


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
