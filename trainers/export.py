"""The adapter file of a run, with all that other tools show of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lora_diffusion.consumers import Portability, Target, verify
from lora_diffusion.errors import InputError
from lora_diffusion.families.base import DiffusionBase
from lora_diffusion.formats import TrainingFacts, save_adapter
from lora_diffusion.formats.hash import file_hashes
from lora_diffusion.formats.metadata import kind_arguments, public_name, thumbnail_data_url
from lora_diffusion.injection import AdapterHandle
from trainers.data.buckets import BucketCount
from trainers.data.scan import Picture
from trainers.layering import to_toml
from trainers.optim.lr_schedule import warmup_steps
from trainers.optim.optimizers import TOLD_NAMES
from trainers.spec import AdapterSpec, JobSpec, Section


@dataclass(frozen=True)
class Exporter:
    """Writes the adapter of one run, at any step.

    Attributes:
        base_hash: sha256 of the base's weights file; empty if it could not be read.
        started: when the run began (Unix time, seconds).
        buckets: into which the pictures fall.
        steps_per_epoch: steps in which each picture is seen as often as it repeats.
    """

    spec: JobSpec
    base: DiffusionBase
    base_hash: str
    pictures: Sequence[Picture]
    class_pictures: int
    precision: str
    resolution_px: int
    buckets: Sequence[BucketCount]
    started: float
    steps_per_epoch: float

    def write(
        self, handle: AdapterHandle, path: Path, step: int, now: float, cover: Path | None
    ) -> Portability:
        """Write `path`; atomic, with hashes of the final bytes. Returns who reads it.

        cover: a picture to show beside the file, put into its metadata as a thumbnail.

        Raises:
            InputError: the weights are not finite or do not fit the stored dtype.
            OSError: the disk is full; an older file of that name is as it was.
        """
        save_adapter(
            handle.to_file(self.base.arch),
            path,
            dtype=self.spec.save.dtype,
            facts=self._facts(handle, path, step, now, cover),
            one_alpha=True,
        )
        return verify(path, Target(self.base.arch, self.base.name, self.base.shapes()))

    def _facts(
        self, handle: AdapterHandle, path: Path, step: int, now: float, cover: Path | None
    ) -> TrainingFacts:
        spec = self.spec
        folder = public_name(spec.data.folder)
        words = Counter(tag for p in self.pictures for tag in _tags(p.caption))
        return TrainingFacts(
            title=spec.save.title or path.stem,
            arch=self.base.arch,
            prediction=self.base.prediction,
            zero_snr=bool(self.base.scheduler_config.get("rescale_betas_zero_snr")),
            base=self.base.name,
            base_hash=self.base_hash,
            kind=spec.adapter.kind,
            rank=spec.adapter.rank,
            alpha=_told_alpha(spec.adapter, spec.adapter.rank, spec.adapter.alpha),
            network_args=network_args(spec, handle),
            seed=spec.schedule.seed,
            steps=step,
            epochs=int(step / self.steps_per_epoch),
            batch_size=spec.schedule.batch_size,
            accumulate=spec.schedule.accumulate,
            lr_unet=spec.optim.lr_unet,
            lr_text=spec.optim.lr_text or None,
            optimizer=TOLD_NAMES[spec.optim.kind],
            schedule=spec.optim.lr_schedule,
            warmup_steps=warmup_steps(spec.optim, step),
            min_snr_gamma=spec.objective.min_snr_gamma,
            gradient_checkpointing=spec.model.gradient_checkpointing,
            width_px=self.resolution_px,
            height_px=self.resolution_px,
            clip_skip=spec.model.clip_skip,
            buckets={f"{b.size_px[1]}x{b.size_px[0]}": b.visits for b in self.buckets}
            if spec.data.buckets
            else {},
            pictures=len(self.pictures),
            class_pictures=self.class_pictures or None,
            tag_counts={folder: dict(words)},
            trigger_words=(spec.data.trigger,) if spec.data.trigger else (),
            started=self.started,
            finished=now,
            author=spec.save.author or "",
            description=spec.save.description or "",
            thumbnail=_thumbnail(cover),
            precision=self.precision,
            job=to_toml(without_paths(spec)),
        )


def network_args(spec: JobSpec, handle: AdapterHandle) -> dict[str, str]:
    """What makes the adapter what it is, beyond rank and alpha, under the names in use for it.

    `conv_dim`, `conv_alpha`: kohya-ss/sd-scripts, where there are convolutions above 1x1;
    `loraplus_lr_ratio`: likewise.
    """
    adapter = spec.adapter
    told = {"targets": adapter.targets, "text_targets": adapter.text_targets}
    if any(each.has_kernel for _, each in handle.adapters()):
        rank = adapter.conv_rank or adapter.rank
        alpha = adapter.conv_alpha or (adapter.alpha and adapter.alpha * rank / adapter.rank)
        told |= {"conv_dim": str(rank), "conv_alpha": f"{_told_alpha(adapter, rank, alpha):g}"}
    told |= kind_arguments(adapter.kind, adapter.dora_axis, adapter.lokr_factor)
    if spec.optim.lora_plus_ratio is not None:
        told["loraplus_lr_ratio"] = f"{spec.optim.lora_plus_ratio:g}"
    return told


def _told_alpha(adapter: AdapterSpec, rank: int, alpha: float | None) -> float:
    """Alpha as the file's layers have it, with rsLoRA's scaling folded in."""
    alpha = float(rank) if alpha is None else alpha
    return alpha * math.sqrt(rank) if adapter.kind == "rslora" else alpha


def without_paths(spec: JobSpec) -> JobSpec:
    """The spec with local folders cut to their last name: it is shared with the file."""
    data = spec.data.model_copy(
        update={
            "folder": public_name(spec.data.folder),
            **_named_only(
                spec.data, "class_folder", "wildcard_folder", "cache_folder", "caption_table"
            ),
            "subsets": tuple(
                subset.model_copy(
                    update={
                        "folder": public_name(subset.folder),
                        **_named_only(subset, "mask_folder", "caption_table"),
                    }
                )
                for subset in spec.data.subsets
            ),
        }
    )
    model = spec.model.model_copy(
        update={
            "base": public_name(spec.model.base),
            "tokenizer": spec.model.tokenizer and public_name(spec.model.tokenizer),
        }
    )
    adapter = spec.adapter.model_copy(
        update={"start_from": spec.adapter.start_from and public_name(spec.adapter.start_from)}
    )
    preview = spec.preview.model_copy(update=_named_only(spec.preview, "prompts_file"))
    validation = spec.validation.model_copy(update=_named_only(spec.validation, "folder"))
    return spec.model_copy(
        update={
            "data": data,
            "model": model,
            "adapter": adapter,
            "preview": preview,
            "validation": validation,
        }
    )


def _named_only(section: Section, *fields: str) -> dict[str, str]:
    """Those of the fields that are set, cut to their last name."""
    return {
        field: public_name(getattr(section, field)) for field in fields if getattr(section, field)
    }


def base_weights_hash(location: Path) -> str:
    """sha256 of a checkpoint file, or of a diffusers folder's UNet; empty if there is neither."""
    if location.is_file():
        return file_hashes(location).sha256
    weights = sorted((location / "unet").glob("*.safetensors")) if location.is_dir() else []
    return file_hashes(weights[0]).sha256 if len(weights) == 1 else ""


def _tags(caption: str) -> list[str]:
    return [tag for tag in (part.strip() for part in caption.split(",")) if tag]


def _thumbnail(cover: Path | None) -> str:
    if cover is None:
        return ""
    try:
        with Image.open(cover) as picture:
            return thumbnail_data_url(picture)
    except (OSError, InputError):
        return ""
