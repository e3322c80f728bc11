"""The parts of a dataset: what `data.subsets`, or `data.folder` alone, and kohya's names say.

No torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from lora_diffusion import bundled
from trainers.data.caption_files import SIDECAR_ENDINGS
from trainers.spec import DataSpec, SubsetSpec

MAX_KOHYA_REPEATS = 999
_KOHYA = re.compile(r"([1-9]\d{0,2})_(.+)")
_KOHYA_CLASSES = frozenset({"reg", "regs", "reg_data", "regularization", "regularisation"})


@dataclass(frozen=True)
class Subset:
    """One part of a dataset, with every setting that was left out filled in.

    Attributes:
        folder: where its pictures are.
        name: what it is called; empty where the dataset is one folder.
        repeats: how often an epoch shows each picture.
        weight: factor on the loss.
        is_class: regularisation pictures.
        trigger: the word put before captions that lack it.
        default_caption: for pictures that have none; None makes that an error.
        caption_endings: of caption files, the first wins.
        caption_table: JSON or JSON lines of captions.
        mask_folder: where masks lie, under the pictures' names.
    """

    folder: Path
    name: str = ""
    repeats: int = 1
    weight: float = 1.0
    is_class: bool = False
    trigger: str | None = None
    default_caption: str | None = None
    caption_endings: tuple[str, ...] = SIDECAR_ENDINGS
    caption_table: Path | None = None
    mask_folder: Path | None = None


def subsets(data: DataSpec) -> list[Subset]:
    """The parts that `data` names; at least one. No two have the same name."""
    if not data.subsets:
        caption = _default_caption(data.instance_prompt, data.trigger)
        return [
            Subset(
                bundled.resolve(data.folder),
                trigger=data.trigger,
                default_caption=caption,
                caption_table=_path(data.caption_table),
            )
        ]
    found: list[Subset] = []
    for each in data.subsets:
        subset = _filled_in(data, each)
        taken = {other.name for other in found}
        if subset.name in taken:
            number = next(n for n in range(2, len(taken) + 3) if f"{subset.name}-{n}" not in taken)
            subset = replace(subset, name=f"{subset.name}-{number}")
        found.append(subset)
    return found


def in_kohya_folder(subset: Subset, name: str) -> Subset:
    """The subset of the picture `name`, whose folder or tar may be kohya's `N_concept`.

    N (1 to 999, without a leading zero) is a number of repeats, and the concept the caption of
    pictures that have none. Below a folder `reg` such pictures are for regularisation.
    Source: kohya-ss/sd-scripts, "DreamBooth, class+identifier" folder layout.
    """
    folders = name.split("/")[:-1]
    found = [match for part in folders if (match := _KOHYA.fullmatch(part.removesuffix(".tar")))]
    if not found:
        return subset
    inner = found[-1]
    concept = inner[2].strip()
    is_class = subset.is_class or any(part.lower() in _KOHYA_CLASSES for part in folders)
    return replace(
        subset,
        name="/".join(part for part in (subset.name, inner[0]) if part),
        repeats=subset.repeats * int(inner[1]),
        is_class=is_class,
        trigger=None if is_class else subset.trigger,
        default_caption=concept or subset.default_caption,
    )


def _filled_in(data: DataSpec, each: SubsetSpec) -> Subset:
    folder = bundled.resolve(each.folder)
    trigger = each.trigger if each.trigger is not None or each.is_class else data.trigger
    prompt = each.instance_prompt
    if prompt is None and each.is_class:
        prompt = data.class_prompts[0] if data.class_prompts else ""
    return Subset(
        folder,
        name=each.name or folder.name,
        repeats=each.repeats,
        weight=each.weight,
        is_class=each.is_class,
        trigger=trigger or None,
        default_caption=_default_caption(
            data.instance_prompt if prompt is None else prompt, trigger
        ),
        caption_endings=(each.caption_ending,) if each.caption_ending else SIDECAR_ENDINGS,
        caption_table=_path(each.caption_table or data.caption_table),
        mask_folder=_path(each.mask_folder),
    )


def _default_caption(prompt: str, trigger: str | None) -> str | None:
    """`prompt` with {trigger} filled in; None where there is nothing to fill in."""
    if "{trigger}" in prompt:
        prompt = prompt.replace("{trigger}", trigger) if trigger else ""
    return prompt or None


def _path(setting: str | None) -> Path | None:
    return bundled.resolve(setting) if setting else None
