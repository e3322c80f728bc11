"""sd-scripts' dataset configuration (`[[datasets]]`, `[[datasets.subsets]]`) as a layer of ours.

Source: kohya-ss/sd-scripts, `docs/config_README-en.md`. There a setting may differ from subset to
subset where it is one for all here; then the first is taken, and that is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lora_diffusion.errors import InputError, printable
from trainers.importing import values as read

_SIDE_STEP_PX = 8
_FLIP = 0.5
# Ours in the data section -> theirs and how it is read.
_DATA = {
    "buckets": ("enable_bucket", read.flag),
    "bucket_min_px": ("min_bucket_reso", read.positive_int),
    "bucket_max_px": ("max_bucket_reso", read.positive_int),
    "bucket_step_px": ("bucket_reso_steps", read.positive_int),
    "flip": ("flip_aug", lambda value: _FLIP if read.flag(value) else None),
    "random_crop": ("random_crop", read.flag),
    "shuffle_parts": ("shuffle_caption", read.flag),
    "keep_parts": ("keep_tokens", read.positive_int),
    "caption_dropout": ("caption_dropout_rate", read.positive),
    "part_dropout": ("caption_tag_dropout_rate", read.positive),
    "masked_loss": ("masked_loss", read.flag),
}
_OTHER_DATA = ("bucket_no_upscale", "enable_wildcard", "alpha_mask")
_SUBSET = {
    "folder": ("image_dir", read.text),
    "repeats": ("num_repeats", read.positive_int),
    "is_class": ("is_reg", read.flag),
    "instance_prompt": ("class_tokens", read.text),
    "caption_ending": ("caption_extension", read.text),
    "caption_table": ("metadata_file", read.text),
    "mask_folder": ("conditioning_data_dir", read.text),
}
_NO_MATTER = frozenset({"cache_info", "num_workers", "validation_seed"})

DATA_KEYS = frozenset(
    {theirs for theirs, _ in _DATA.values()}
    | set(_OTHER_DATA)
    | {"caption_extension", "caption_extention"}
)
"""The settings that `data_settings` reads, and the ending, which is a subset's."""


def translate_datasets(found: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(our settings, what could not be carried over).

    Raises:
        InputError: it has no subsets with pictures.
    """
    notes: list[str] = []
    general = _table(found.get("general"))
    subsets: list[dict[str, Any]] = []
    merged: list[dict[str, Any]] = []
    for dataset in _tables(found.get("datasets")):
        own = {name: value for name, value in dataset.items() if name != "subsets"}
        for subset in _tables(dataset.get("subsets")):
            whole = {**general, **own, **subset}
            merged.append(whole)
            subsets.append(_subset(whole))
    if not subsets:
        raise InputError("The dataset configuration has no [[datasets.subsets]] with image_dir.")
    common = _in_common(merged, notes)
    data, more = data_settings(common)
    notes += more
    side = resolution_px(common.get("resolution"), notes)
    if side:
        data["resolution_px"] = side
    data["subsets"] = subsets
    layer: dict[str, dict[str, Any]] = {"data": data}
    batch = read.positive_int(common.get("batch_size"))
    if batch:
        layer["schedule"] = {"batch_size": batch}
    return layer, notes


def data_settings(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields of our data section that sd-scripts has for all subsets, as far as given."""
    data: dict[str, Any] = {}
    notes: list[str] = []
    for ours, (theirs, convert) in _DATA.items():
        if given.get(theirs) in (None, ""):
            continue
        value = convert(given[theirs])
        if value is not None:
            data[ours] = value
    if data.get("buckets"):
        data["upscale"] = not read.flag(given.get("bucket_no_upscale"))
    if read.flag(given.get("enable_wildcard")):
        data["wildcards"] = data["caption_lines"] = True
    if read.flag(given.get("alpha_mask")):
        data["masked_loss"] = True
    return data, notes


def resolution_px(value: Any, notes: list[str]) -> int | None:
    """`512`, `"512,768"` or `[512, 768]` as the side of the square with as many pixels."""
    sides = [value] if isinstance(value, int | float) else read.numbers(value)
    sides = [side for side in sides if side and side > 0]
    if not sides:
        return None
    width, height = sides[0], sides[-1]
    side = int(math.sqrt(width * height) // _SIDE_STEP_PX * _SIDE_STEP_PX)
    if width != height:
        notes.append(
            f"resolution {printable(value, 40)} becomes data.resolution_px {side}, a square with "
            "as many pixels."
        )
    return side


def _subset(whole: Mapping[str, Any]) -> dict[str, Any]:
    subset = {}
    for ours, (theirs, convert) in _SUBSET.items():
        if whole.get(theirs) in (None, ""):
            continue
        value = convert(whole[theirs])
        if value:
            subset[ours] = value
    if "folder" not in subset:
        raise InputError(
            "A [[datasets.subsets]] of the dataset configuration has no image_dir. Add it."
        )
    return subset


def _in_common(merged: Sequence[Mapping[str, Any]], notes: list[str]) -> dict[str, Any]:
    """One value for each setting that is no subset's own; where they differ, the first."""
    own = {theirs for theirs, _ in _SUBSET.values()}
    readable = DATA_KEYS | {"resolution", "batch_size"}
    common: dict[str, Any] = {}
    for name in dict.fromkeys(name for whole in merged for name in whole):
        if name in own or name in _NO_MATTER:
            continue
        given = [whole.get(name) for whole in merged]
        if name not in readable:
            said = next((value for value in given if read.says_something(value)), None)
            if said is not None:
                notes.append(f"{printable(name, 60)} = {printable(said, 60)} is not carried over.")
            continue
        common[name] = given[0]
        if any(value != given[0] for value in given):
            notes.append(
                f"{name} differs between the subsets, and is one for all here: "
                f"{printable(given[0], 40)} is taken."
            )
    return common


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _tables(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
