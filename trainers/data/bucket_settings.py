"""The buckets that a run's settings ask for, before or after its base is loaded. No torch."""

from __future__ import annotations

from lora_diffusion.errors import InputError
from lora_diffusion.families.outline import outline
from trainers.data.buckets import BucketRules
from trainers.spec import DataSpec, JobSpec


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


def rules_by_outline(spec: JobSpec) -> BucketRules | None:
    """The buckets by the base's configuration alone; None where it can't be looked into.

    Raises:
        InputError: there are no buckets.
    """
    try:
        base = outline(spec.model.base, spec.model.arch)
    except InputError:  # said when the base is opened
        return None
    return bucket_rules(spec.data, base.native_size_px, base.size_step_px)
