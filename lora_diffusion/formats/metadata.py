"""What a file says about itself, written so that other tools show it. No torch.

Safetensors metadata maps strings to strings; nested values are JSON text. Three vocabularies:
`ss_*` (kohya-ss/sd-scripts: A1111, Forge, ComfyUI-Lora-Manager and sd-scripts' own tools read it),
`modelspec.*` (Stability-AI/ModelSpec 1.0.1), and `lora_diffusion.spec`, from which
`facts_from_metadata` gives the same `TrainingFacts` back. Reading is in `summary`.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

SPEC_KEY = "lora_diffusion.spec"
SPEC_VERSION = 1
MODELSPEC_VERSION = "1.0.1"
MAX_TAGS = 2_000  # per folder, most frequent first; keeps the header small
THUMBNAIL_SIDE_PX = 256
# Kept in their own metadata keys, where other tools look for them, and not again in the record.
_NOT_IN_RECORD = ("thumbnail", "tag_counts")


@dataclass(frozen=True)
class TrainingFacts:
    """What is worth telling about how an adapter came to be. Unset facts are left out.

    Attributes:
        title: name of the adapter; also its alias in A1111 prompts.
        arch: `sd15`, `sd21` or `sdxl`.
        prediction: `epsilon` or `v_prediction`.
        zero_snr: the base's noise schedule ends without signal.
        base: name or id of the base model; a local path is cut to its last part.
        base_hash: sha256 of the base's weights file, 64 hex digits.
        kind: `lora`, `locon`, `rslora`, `dora`, `loha` or `lokr`.
        rank, alpha: of linear layers, where not overridden.
        network_args: further settings of the adapter (`conv_dim`, `targets`, …).
        seed, steps, epochs, batch_size, accumulate: of the run; batch per device.
        lr_unet, lr_text: learning rates; None where that part was not trained.
        optimizer, schedule: their names. `warmup_steps`: of the schedule.
        min_snr_gamma, network_dropout, gradient_checkpointing: as in the run's settings.
        width_px, height_px: training resolution.
        buckets: size of a crop as `WIDTHxHEIGHT` -> pictures times repeats; none where all are
            squares.
        clip_skip: text-encoder layer used, counted from the last (1).
        pictures, class_pictures: how many of each.
        folders: data folder -> number of pictures, where there are several.
        tag_counts: data folder -> tag -> in how many captions.
        trigger_words: what calls the subject up.
        started, finished: seconds since 1970, UTC.
        author, description, license, usage_hint: free text.
        thumbnail: JPEG data URL, from `thumbnail_data_url`.
        precision: arithmetic of the run: `fp32`, `bf16`, `fp16`.
        dtype: numbers in the file. `save_adapter` sets it.
        job: the run's own settings, as JSON text.
    """

    title: str = ""
    arch: str = "sd15"
    prediction: str = "epsilon"
    zero_snr: bool = False
    base: str = ""
    base_hash: str = ""
    kind: str = "lora"
    rank: int | None = None
    alpha: float | None = None
    network_args: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    lr_unet: float | None = None
    lr_text: float | None = None
    optimizer: str = ""
    schedule: str = ""
    warmup_steps: int | None = None
    min_snr_gamma: float | None = None
    network_dropout: float | None = None
    gradient_checkpointing: bool | None = None
    width_px: int | None = None
    height_px: int | None = None
    buckets: Mapping[str, int] = field(default_factory=dict)
    clip_skip: int = 1
    pictures: int | None = None
    class_pictures: int | None = None
    folders: Mapping[str, int] = field(default_factory=dict)
    tag_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    trigger_words: tuple[str, ...] = ()
    started: float | None = None
    finished: float | None = None
    author: str = ""
    description: str = ""
    license: str = ""
    usage_hint: str = ""
    thumbnail: str = ""
    precision: str = ""
    dtype: str = ""
    job: str = ""


@dataclass(frozen=True)
class _Arch:
    base_version: str
    architecture: str
    implementation: str
    side_px: int
    is_v2: bool = False


# What makes such a network in sd-scripts; all others are its own `networks.lora`.
_NETWORK_MODULES = MappingProxyType({"loha": "lycoris.kohya", "lokr": "lycoris.kohya"})
_DIFFUSERS = "diffusers"
_ARCHS: Mapping[tuple[str, str], _Arch] = MappingProxyType(
    {
        ("sd15", "epsilon"): _Arch("sd_v1", "stable-diffusion-v1", _DIFFUSERS, 512),
        ("sd15", "v_prediction"): _Arch("sd_v1", "stable-diffusion-v1", _DIFFUSERS, 512),
        ("sd21", "epsilon"): _Arch("sd_v2", "stable-diffusion-v2-512", _DIFFUSERS, 512, True),
        ("sd21", "v_prediction"): _Arch(
            "sd_v2_v", "stable-diffusion-v2-768-v", _DIFFUSERS, 768, True
        ),
        **{
            ("sdxl", prediction): _Arch(
                "sdxl_base_v1-0",
                "stable-diffusion-xl-v1-base",
                "https://github.com/Stability-AI/generative-models",
                1024,
            )
            for prediction in ("epsilon", "v_prediction")
        },
    }
)


def build_metadata(facts: TrainingFacts) -> dict[str, str]:
    """The metadata of a file with these facts: `ss_*`, `modelspec.*` and our own record.

    Hashes are not in it; they come from the file's bytes when it is written.

    Raises:
        KeyError: no such combination of `arch` and `prediction`.
    """
    facts = replace(facts, base=public_name(facts.base))
    arch = _ARCHS[facts.arch, facts.prediction]
    return _ss(facts, arch) | _modelspec(facts, arch) | {SPEC_KEY: _record(facts)}


def kind_arguments(kind: str, dora_axis: str, lokr_factor: int | None) -> dict[str, str]:
    """What of `network_args` tells the kind, under LyCORIS' names; none for LoRA."""
    if kind == "dora":
        return {"dora_wd": "True", "wd_on_output": str(dora_axis == "out")}
    if kind == "rslora":
        return {"rs_lora": "True"}
    if kind == "lokr":
        return {"algo": kind, "factor": str(lokr_factor or -1)}
    return {"algo": kind} if kind == "loha" else {}


def facts_from_metadata(metadata: Mapping[str, str]) -> TrainingFacts | None:
    """The facts of a file that this library wrote; None for any other, or a damaged record."""
    record = parsed(metadata.get(SPEC_KEY, ""))
    if not isinstance(record, dict) or record.get("version") != SPEC_VERSION:
        return None
    stated = record.get("facts")
    if not isinstance(stated, dict):
        return None
    defaults = TrainingFacts()
    known: dict[str, Any] = {}
    for item in fields(TrainingFacts):
        value = stated.get(item.name)
        if value is not None and _same_type(getattr(defaults, item.name), value, str(item.type)):
            known[item.name] = tuple(value) if item.name == "trigger_words" else value
    tags = parsed(metadata.get("ss_tag_frequency", ""))
    if _is_counts(tags, depth=2):
        known["tag_counts"] = tags
    known["thumbnail"] = metadata.get("modelspec.thumbnail", "")
    return TrainingFacts(**known)


def stated_arch(metadata: Mapping[str, str]) -> str | None:
    """`sd15`, `sd21` or `sdxl` as the metadata of any tool says; None if it does not."""
    spec = metadata.get("modelspec.architecture", "").lower()
    version = metadata.get("ss_base_model_version", "").lower()
    for prefix, arch in (
        ("stable-diffusion-v1", "sd15"),
        ("stable-diffusion-v2", "sd21"),
        ("stable-diffusion-xl", "sdxl"),
    ):
        if spec.startswith(prefix):
            return arch
    for prefix, arch in (("sd_v1", "sd15"), ("sd_v2", "sd21"), ("sdxl", "sdxl")):
        if version.startswith(prefix):
            return arch
    return "sd21" if metadata.get("ss_v2") == "True" else None


def thumbnail_data_url(picture: Image.Image, side_px: int = THUMBNAIL_SIDE_PX) -> str:
    """`picture`, at most `side_px` wide and high, as a JPEG `data:` URL of some 20 KB."""
    from PIL import Image

    small = picture.convert("RGB")
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def public_name(location: str) -> str:
    """A base model's name without the folders of the machine it lies on; hub ids stay whole."""
    windows = PureWindowsPath(location)
    if windows.drive or "\\" in location:
        return windows.name
    posix = PurePosixPath(location)
    is_local = posix.is_absolute() or location.startswith((".", "~")) or len(posix.parts) > 2
    return posix.name if is_local else location.removeprefix("bundled:")


def parsed(text: str) -> object:
    """JSON text as a value; None if it is none, or too deep."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _ss(facts: TrainingFacts, arch: _Arch) -> dict[str, str]:
    """Source: kohya-ss/sd-scripts, train_network.py, which stores `str(value)` of each."""
    total_batch = None
    if facts.batch_size is not None:
        total_batch = facts.batch_size * (facts.accumulate or 1)
    values: dict[str, object] = {
        "ss_output_name": facts.title,
        "ss_base_model_version": arch.base_version,
        "ss_v2": arch.is_v2,
        "ss_sd_model_name": facts.base,
        "ss_new_sd_model_hash": facts.base_hash,
        "ss_network_module": _NETWORK_MODULES.get(facts.kind, "networks.lora"),
        "ss_network_dim": facts.rank,
        "ss_network_alpha": facts.alpha,
        "ss_network_args": _json(dict(facts.network_args)) if facts.network_args else "",
        "ss_network_dropout": facts.network_dropout,
        "ss_seed": facts.seed,
        "ss_steps": facts.steps,
        "ss_max_train_steps": facts.steps,
        "ss_num_epochs": facts.epochs,
        "ss_batch_size_per_device": facts.batch_size,
        "ss_total_batch_size": total_batch,
        "ss_gradient_accumulation_steps": facts.accumulate,
        "ss_gradient_checkpointing": facts.gradient_checkpointing,
        "ss_learning_rate": facts.lr_unet,
        "ss_unet_lr": facts.lr_unet,
        "ss_text_encoder_lr": facts.lr_text,
        "ss_optimizer": facts.optimizer,
        "ss_lr_scheduler": facts.schedule,
        "ss_lr_warmup_steps": facts.warmup_steps,
        "ss_min_snr_gamma": facts.min_snr_gamma,
        "ss_zero_terminal_snr": facts.zero_snr or None,
        "ss_mixed_precision": {"fp32": "no"}.get(facts.precision, facts.precision),
        "ss_clip_skip": facts.clip_skip,
        "ss_num_train_images": facts.pictures,
        "ss_num_reg_images": facts.class_pictures,
        "ss_training_started_at": facts.started,
        "ss_training_finished_at": facts.finished,
        "ss_training_comment": facts.description,
    }
    if facts.width_px and facts.height_px:
        values["ss_resolution"] = f"({facts.width_px}, {facts.height_px})"
    if facts.buckets:
        values |= {"ss_enable_bucket": True, "ss_bucket_info": _json(_bucket_info(facts))}
    values |= _ss_data(facts)
    return {key: str(value) for key, value in values.items() if value not in (None, "")}


def _ss_data(facts: TrainingFacts) -> dict[str, str]:
    """The pictures: what A1111's card and ComfyUI-Lora-Manager take tags and triggers from."""
    tags = {
        folder: dict(sorted(counts.items(), key=lambda item: -item[1])[:MAX_TAGS])
        for folder, counts in facts.tag_counts.items()
    }
    folders = dict(facts.folders)
    if not folders and facts.pictures is not None:
        folders = {next(iter(tags), facts.title or "pictures"): facts.pictures}
    found = {}
    if tags:
        found["ss_tag_frequency"] = _json(tags)
    if folders:
        found["ss_dataset_dirs"] = _json(
            {name: {"n_repeats": 1, "img_count": count} for name, count in folders.items()}
        )
    if folders or facts.trigger_words:
        subsets = [
            {
                "image_dir": name,
                "img_count": count,
                "num_repeats": 1,
                "class_tokens": ", ".join(facts.trigger_words) or None,
                "is_reg": False,
            }
            for name, count in (folders or {"": 0}).items()
        ]
        dataset: dict[str, object] = {
            "is_dreambooth": True,
            "batch_size_per_device": facts.batch_size,
            "num_train_images": facts.pictures,
            "num_reg_images": facts.class_pictures,
            "subsets": subsets,
        }
        if facts.width_px and facts.height_px:
            dataset["resolution"] = [facts.width_px, facts.height_px]
        if facts.buckets:
            dataset |= {"enable_bucket": True, "bucket_info": _bucket_info(facts)}
        found["ss_datasets"] = _json([dataset])
    return found


def _bucket_info(facts: TrainingFacts) -> dict[str, object]:
    """Source: kohya-ss/sd-scripts, `BaseDataset.make_buckets`."""
    buckets = {
        str(number): {"resolution": [int(side) for side in size.split("x")], "count": count}
        for number, (size, count) in enumerate(facts.buckets.items())
    }
    return {"buckets": buckets}


def _modelspec(facts: TrainingFacts, arch: _Arch) -> dict[str, str]:
    """Source: Stability-AI/ModelSpec 1.0.1, its MUST, SHOULD and CAN keys."""
    moment = facts.finished or facts.started
    date = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""
    values = {
        "sai_model_spec": MODELSPEC_VERSION,
        "architecture": f"{arch.architecture}/lora",
        "implementation": arch.implementation,
        "title": facts.title or "LoRA",
        "resolution": f"{facts.width_px or arch.side_px}x{facts.height_px or arch.side_px}",
        "description": facts.description,
        "author": facts.author,
        "date": date,
        "license": facts.license,
        "usage_hint": facts.usage_hint,
        "trigger_phrase": ", ".join(facts.trigger_words),
        "thumbnail": facts.thumbnail,
        "prediction_type": {"v_prediction": "v"}.get(facts.prediction, facts.prediction),
        "encoder_layer": str(facts.clip_skip),
    }
    return {f"modelspec.{key}": value for key, value in values.items() if value}


def _record(facts: TrainingFacts) -> str:
    defaults = TrainingFacts()
    stated = {
        key: value
        for key, value in asdict(facts).items()
        if key not in _NOT_IN_RECORD and value != getattr(defaults, key)
    }
    return _json({"version": SPEC_VERSION, "facts": stated})


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _same_type(default: object, value: object, annotation: str) -> bool:
    """Whether a value read from JSON can be the field whose default is `default`."""
    if isinstance(default, str):
        return isinstance(value, str)
    if isinstance(default, tuple):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if isinstance(default, dict):
        return _is_counts(value, depth=1) if "int" in annotation else _is_strings(value)
    if annotation.startswith("bool"):
        return isinstance(value, bool)
    wanted = (int, float) if annotation.startswith("float") else int
    return isinstance(value, wanted) and not isinstance(value, bool)


def _is_counts(value: object, depth: int) -> bool:
    if not isinstance(value, dict):
        return False
    if depth == 1:
        return all(type(count) is int for count in value.values())
    return all(_is_counts(inner, depth - 1) for inner in value.values())


def _is_strings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
