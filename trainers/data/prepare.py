"""From a run's settings to its dataset: buckets, what changes between visits, order and store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_diffusion.families import DiffusionBase
from lora_diffusion.families.digests import WeightDigests
from lora_diffusion.families.outline import VAE
from lora_diffusion.keys import TEXT_ENCODER, TEXT_ENCODER_2, UNET
from trainers.data.augment import AugmentRules
from trainers.data.bucket_settings import bucket_rules
from trainers.data.cache import MemoryStore, Progress, ShardStore, Store, file_digest
from trainers.data.caption_choice import CaptionRules, read_wildcards
from trainers.data.dataset import Dataset, VisitRules, place_in_buckets
from trainers.data.encoding import PictureEncoder
from trainers.data.order import Order, make_order
from trainers.data.prompts import KeptPrompts
from trainers.data.scan import Picture
from trainers.data.user_cache import user_cache
from trainers.machine.team import ALONE, Team
from trainers.spec import DataSpec, JobSpec

Records = dict[str, MemoryStore[Any]]  # what is encoded (`latents`, `prompts`) -> where it is kept


def make_dataset(
    base: DiffusionBase,
    spec: JobSpec,
    instances: Sequence[Picture],
    classes: Sequence[Picture],
    visits: VisitRules | None = None,
    records: Records | None = None,
) -> Dataset:
    """The pictures in their buckets, with a place for their latents.

    Args:
        visits: how visits to a picture differ; None is as the settings have it.
        records: what other runs of this process encoded, and where this one adds its own.

    Raises:
        InputError: pictures that are too small or can't be read, or settings without a bucket.
    """
    data = spec.data
    rules = bucket_rules(data, base.native_size_px, base.size_step_px)
    return Dataset(
        place_in_buckets(instances, rules, masked=data.masked_loss),
        place_in_buckets(classes, rules, masked=data.masked_loss),
        visits or visit_rules(spec),
        PictureEncoder(base, masked=data.masked_loss, max_megapixels=data.max_megapixels),
        open_store("latents", data, records),
        vae=_digest(base, data, (VAE,)),
        vae_dtype=str(base.vae_dtype),
    )


def keep_prompts(
    base: DiffusionBase,
    spec: JobSpec,
    prompts: Sequence[str],
    on_progress: Progress,
    records: Records | None = None,
    team: Team = ALONE,
) -> KeptPrompts | None:
    """Each of `prompts` encoded once; None where `data.cache` is off.

    Args:
        records: as `make_dataset` takes them.
        team: whose processes each encode a share.

    Raises:
        InputError: the cache can't be used, or a file of the base can't be read.
    """
    store: Store[str] | None = open_store("prompts", spec.data, records)
    if store is None:
        return None
    texts = sorted(base.parts.keys() - {UNET})
    encoders = _digest(base, spec.data, texts)
    if encoders and spec.model.tokenizer:
        files = sorted(path for path in Path(spec.model.tokenizer).iterdir() if path.is_file())
        encoders += "".join(file_digest(path) for path in files)
    return KeptPrompts(
        base,
        prompts,
        store,
        on_progress,
        encoders=encoders,
        clip_skip=spec.model.clip_skip,
        team=team,
    )


def open_store(what: str, data: DataSpec, records: Records | None = None) -> Store[Any] | None:
    """Where `data.cache` keeps records of that kind; None where it keeps none.

    In memory that is among `records`, if they are given.

    Raises:
        InputError: the folder can't be used.
    """
    if data.cache == "off":
        return None
    if data.cache == "disk":
        return ShardStore(cache_folder(data) / what)
    return ({} if records is None else records).setdefault(what, MemoryStore())


def cache_folder(data: DataSpec) -> Path:
    """The folder of the disk cache."""
    return Path(data.cache_folder).expanduser() if data.cache_folder else user_cache()


def put_off(spec: JobSpec) -> tuple[str, ...]:
    """Parts of the base that a disk cache may make needless, so that they load when needed."""
    if spec.data.cache != "disk":
        return ()
    text_is_looked_at = spec.trains_text or spec.adapter.start_from is not None
    return (VAE,) if text_is_looked_at else (VAE, TEXT_ENCODER, TEXT_ENCODER_2)


def _digest(base: DiffusionBase, data: DataSpec, parts: Sequence[str]) -> str:
    """What tells the weights of those parts from others; empty where nothing outlives the run."""
    if data.cache != "disk":
        return ""
    return WeightDigests(cache_folder(data) / "weights.json").of(base.location, parts)


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
