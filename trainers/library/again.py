"""Train again with the settings that a file tells: its metadata as a run's TOML. No torch.

A file of this project holds its whole run; one of sd-scripts (kohya_ss, and what writes its `ss_*`
keys) is read as sd-scripts' own settings are. No file holds the pictures, and none says in which
folder they or the base were: that, and all that cannot be carried over, is named.

Source of the keys: kohya-ss/sd-scripts, `train_network.py`, which stores `str(value)` of each.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_diffusion.errors import InputError, printable
from lora_diffusion.formats.metadata import facts_from_metadata, parsed, stated_arch
from lora_diffusion.formats.reading import open_adapter
from lora_diffusion.formats.summary import clean, trigger_words
from trainers.importing.kohya import translate
from trainers.importing.kohya_datasets import data_settings, resolution_px
from trainers.layering import SettingError, build_spec, to_toml
from trainers.spec import JobSpec

_PREFIX = "ss_"
# sd-scripts' key in metadata, without the prefix -> its setting, where they differ.
_RENAMED = {
    "sd_model_name": "pretrained_model_name_or_path",
    "batch_size_per_device": "train_batch_size",
    "num_epochs": "max_train_epochs",
    "vae_name": "vae",
    "debiased_estimation": "debiased_estimation_loss",
}
# What they tell about the run or the pictures is no setting.
_TOLD = frozenset(
    {
        *("session_id", "training_started_at", "training_finished_at", "output_name", "epoch"),
        *("steps", "num_train_images", "num_reg_images", "num_batches_per_epoch", "sd_model_hash"),
        *("new_sd_model_hash", "vae_hash", "new_vae_hash", "tag_frequency", "dataset_dirs"),
        *("reg_dataset_dirs", "bucket_info", "datasets", "sd_scripts_commit_hash", "v2"),
        *("base_model_version", "total_batch_size", "training_comment", "optimizer", "lowram"),
        *("network_args", "max_token_length", "cache_latents", "full_fp16", "resolution", "seed"),
    }
)
_UNSET = frozenset({"", "None", "{}", "[]", "[None]"})
_CALL = re.compile(r"(?P<name>[\w.]+)(?:\((?P<arguments>.*)\))?", re.DOTALL)
_OF_SUBSETS = (
    *("flip_aug", "color_aug", "random_crop", "shuffle_caption", "keep_tokens", "alpha_mask"),
    *("caption_dropout_rate", "caption_tag_dropout_rate", "enable_wildcard"),
)


@dataclass(frozen=True)
class Again:
    """How to train what a file holds once more.

    Attributes:
        spec: the run.
        source: `lora_diffusion` or `sd-scripts`: whose record it is.
        notes: a sentence for each thing that can't be reproduced or has to be given.
    """

    spec: JobSpec
    source: str
    notes: tuple[str, ...]

    def as_toml(self) -> str:
        """The run's TOML, the notes as comments before it."""
        head = "".join(f"# {line}\n" for line in self.notes)
        return f"{head}\n{to_toml(self.spec)}" if head else to_toml(self.spec)


def again(file: Path, *, pictures: Path | None = None, base: str | None = None) -> Again:
    """The run that made `file`, as far as it tells.

    Args:
        pictures: folder of the pictures, which no file holds.
        base: the base model, of which files tell the name only.

    Raises:
        InputError: it is no adapter, or tells no settings.
    """
    return from_metadata(
        open_adapter(file).metadata, printable(file.name), pictures=pictures, base=base
    )


def from_metadata(
    metadata: Mapping[str, str],
    name: str,
    *,
    pictures: Path | None = None,
    base: str | None = None,
) -> Again:
    """`again` of a file called `name` with that metadata."""
    own, notes = _own_run(metadata), list[str]()
    if own is not None:
        layer, source = own, "lora_diffusion"
    elif f"{_PREFIX}network_dim" in metadata or f"{_PREFIX}learning_rate" in metadata:
        layer, notes = _sd_scripts(metadata)
        source = "sd-scripts"
    else:
        raise InputError(
            f"{name}: tells no training settings, so they can't be used again. Its maker left them "
            "out, or took them out."
        )
    notes = _name_inputs(layer, metadata, notes, pictures, base)
    return Again(_usable_spec(layer, notes), source, tuple(notes))


def _usable_spec(layer: dict[str, Any], notes: list[str]) -> JobSpec:
    """The run of `layer`; what is out of bounds here is left out, and noted."""
    while True:
        try:
            return build_spec([layer])
        except SettingError as error:
            section, _, field = error.setting.partition(".")
            values = layer.get(section)
            field = field.partition(".")[0]
            if not isinstance(values, dict) or field not in values:
                raise
            value = printable(values.pop(field), 60)
            notes.append(f"{error.setting} = {value} is not carried over: {error.problem}")


def _own_run(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    facts = facts_from_metadata(metadata)
    if facts is None or not facts.job:
        return None
    try:
        return tomllib.loads(facts.job)
    except tomllib.TOMLDecodeError:
        return None


def _sd_scripts(metadata: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    settings = {
        _RENAMED.get(key, key): _value(text)
        for key, text in ((k.removeprefix(_PREFIX), v) for k, v in metadata.items()
                          if k.startswith(_PREFIX))
        if key not in _TOLD and text not in _UNSET
    }  # fmt: skip
    seed = _value(metadata.get("ss_seed", ""))
    arguments = parsed(metadata.get("ss_network_args", ""))
    if isinstance(arguments, dict):
        settings["network_args"] = [f"{name}={value}" for name, value in arguments.items()]
    settings |= _optimizer(metadata.get("ss_optimizer", ""))
    settings["sdxl"] = stated_arch(metadata) == "sdxl"
    settings["v2"] = metadata.get("ss_v2") == "True"
    settings["v_parameterization"] = metadata.get("ss_base_model_version", "").endswith("_v")
    settings["output_name"] = clean(metadata.get("ss_output_name", ""), 60)
    if "max_train_steps" in settings:  # what was done; epochs depend on the pictures
        settings.pop("max_train_epochs", None)
    data, data_notes = _data(metadata, settings)
    layer, notes = translate(settings)
    if isinstance(seed, int) and seed >= 0:
        layer.setdefault("schedule", {})["seed"] = seed
    layer["data"] = {**layer.get("data", {}), **data}
    return layer, [*notes, *data_notes]


def _data(
    metadata: Mapping[str, str], settings: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """How the pictures were shown: of the first dataset and subset that there were."""
    datasets = parsed(metadata.get("ss_datasets", ""))
    datasets = [d for d in datasets if isinstance(d, dict)] if isinstance(datasets, list) else []
    first = datasets[0] if datasets else {}
    subsets = [s for d in datasets for s in d.get("subsets") or [] if isinstance(s, dict)]
    shown = [s for s in subsets if not s.get("is_reg")]
    told = {name: value for name, value in first.items() if not isinstance(value, list | dict)}
    told |= {name: shown[0][name] for name in _OF_SUBSETS if shown and name in shown[0]}
    data, notes = data_settings(told)
    side = resolution_px(
        first.get("resolution") or _value(metadata.get("ss_resolution", "")), notes
    )
    if side:
        data["resolution_px"] = side
    words = trigger_words(metadata)
    if words:
        data["trigger"] = words[0]
    if len(shown) > 1:
        repeats = ", ".join(
            f"{clean(str(s.get('image_dir')), 60)} {s.get('num_repeats', 1)} times" for s in shown
        )
        notes.append(f"It had several folders of pictures ({repeats}): write data.subsets.")
    if any(s.get("is_reg") for s in subsets):
        notes.append(
            "It had regularisation pictures: set data.class_folder or data.class_pictures."
        )
    return data, notes


def _optimizer(text: str) -> dict[str, Any]:
    """`bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)` as type and arguments."""
    match = _CALL.fullmatch(text.strip())
    if match is None:
        return {}
    arguments = re.split(r",(?![^()\[\]]*[)\]])", match["arguments"] or "")
    return {
        "optimizer_type": match["name"],
        "optimizer_args": [part.strip() for part in arguments if "=" in part],
    }


def _value(text: str) -> Any:
    """What `str(value)` was of: a number, True, a list or tuple; else the text."""
    if text in ("True", "False"):
        return text == "True"
    try:
        found = ast.literal_eval(text) if len(text) < 200 else text
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    return list(found) if isinstance(found, tuple) else found


def _name_inputs(
    layer: dict[str, Any],
    metadata: Mapping[str, str],
    notes: list[str],
    pictures: Path | None,
    base: str | None,
) -> list[str]:
    """Put in what no file holds; the notes, with what is missing first."""
    missing = []
    model, data = layer.setdefault("model", {}), layer.setdefault("data", {})
    if base:
        model["base"] = base
    else:
        digest = metadata.get("ss_new_sd_model_hash") or metadata.get("ss_sd_model_hash")
        known = f" (hash {clean(digest, 64)})" if digest else ""
        name = printable(model.get("base") or "not told", 120)
        missing.append(f"The base was {name}{known}: set model.base to where yours is.")
    if pictures:
        data["folder"] = str(pictures)
        data.pop("subsets", None)
    else:
        told = metadata.get("ss_num_train_images")
        count = f"{clean(told, 12)} pictures (times repeats)" if told else "pictures"
        missing.append(f"It was trained on {count}, which no file holds: set data.folder.")
    return missing + notes
