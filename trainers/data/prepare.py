"""From a run's settings to its dataset: buckets, what changes between visits, order and store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_diffusion.families import DiffusionBase
from trainers.data.augment import AugmentRules
from trainers.data.buckets import BucketRules
from trainers.data.cache import MemoryStore
from trainers.data.caption_choice import CaptionRules, read_wildcards
from trainers.data.dataset import Dataset, VisitRules, place_in_buckets
from trainers.data.encoding import Job, PictureEncoder
from trainers.data.order import Order, make_order
from trainers.data.scan import Picture
from trainers.spec import DataSpec, JobSpec


def make_dataset(
    base: DiffusionBase, spec: JobSpec, instances: Sequence[Picture], classes: Sequence[Picture]
) -> Dataset:
    """The pictures in their buckets, with a place for their latents.

    Raises:
        InputError: pictures that are too small or can't be read, or settings without a bucket.
    """
    data = spec.data
    rules = bucket_rules(data, base.native_size_px, base.size_step_px)
    return Dataset(
        place_in_buckets(instances, rules, masked=data.masked_loss),
        place_in_buckets(classes, rules, masked=data.masked_loss),
        visit_rules(spec),
        PictureEncoder(base, masked=data.masked_loss, max_megapixels=data.max_megapixels),
        None if data.cache == "off" else MemoryStore[Job](),
    )


def make_run_order(spec: JobSpec, dataset: Dataset) -> Order:
    """In which batches a run visits the pictures."""
    return make_order(
        dataset.members(is_class=False),
        dataset.members(is_class=True),
        class_fraction=spec.data.class_fraction,
        seed=spec.schedule.seed,
        batch_size=spec.schedule.batch_size,
        whole_epochs=spec.data.buckets,
    )


def bucket_rules(data: DataSpec, native_size_px: int, size_step_px: int) -> BucketRules:
    """The buckets for a base that draws squares of that side, in steps of that size.

    Raises:
        InputError: there are none.
    """
    return BucketRules.around(
        data.resolution_px or native_size_px,
        data.bucket_step_px or size_step_px,
        min_px=data.bucket_min_px,
        max_px=data.bucket_max_px,
        upscale=data.upscale,
        square=not data.buckets,
    )


def visit_rules(spec: JobSpec) -> VisitRules:
    """What changes from one visit to a picture to the next.

    Raises:
        InputError: a file of wildcards is wrong.
    """
    data = spec.data
    augment = AugmentRules(data.random_crop, data.flip, data.colour_jitter)
    captions = CaptionRules(
        parts=data.caption_parts,
        shuffle=data.shuffle_parts,
        keep_first=data.keep_parts,
        drop_part=data.part_dropout,
        wildcards=data.wildcards,
        lines=read_wildcards(Path(data.wildcard_folder)) if data.wildcard_folder else {},
    )
    return VisitRules(
        augment=augment,
        captions=captions,
        caption_dropout=data.caption_dropout,
        kept_looks=_kept(data, varies=augment.is_endless),
        kept_captions=None if spec.trains_text else _kept(data, varies=True),
        seed=spec.schedule.seed,
    )


def _kept(data: DataSpec, *, varies: bool) -> int | None:
    """How many versions are kept; None makes each anew."""
    if not varies:
        return 1
    return None if data.cache == "off" else data.cache_variants
